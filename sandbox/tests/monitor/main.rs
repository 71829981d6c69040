//! Real monitors with real containers, driven through the server's own link.
//!
//! Needs root and a static busybox; says so and passes where one is missing.

#![allow(clippy::unwrap_used)] // also in the helpers of tests

mod cgroups;
mod containers;
mod death;
mod execs;
mod fork_server;
mod harness;
mod host_ports;
mod leaks;
mod logs;
mod memory;
mod namespaces;
mod plans;
mod protocol;
mod speed;
