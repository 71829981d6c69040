//! Pod networks for real, each test on a private host of its own.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod addresses;
mod builtin;
mod cni;
mod cni_faults;
mod cni_networks;
mod cni_plugins;
mod collect;
mod crashes;
mod dns;
mod dual_stack;
mod exclusions;
mod firewalld;
mod firewalls;
mod flushed;
mod host_ports;
mod link_local_resolver;
mod named;
mod plugins;
mod pod_cidr;
mod routers;
mod scale;
mod sctp;
mod support;
