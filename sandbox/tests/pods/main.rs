//! Pods with real monitors, in temporary folders.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod cni;
mod cni_dns;
mod faults;
mod lab;
mod monitors;
mod network_collect;
mod recovery;
mod systemd;
