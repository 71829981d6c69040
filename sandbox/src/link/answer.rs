//! What a monitor's answers amount to: descriptors by name.

use crisp_executor::run::StageError;
use rustix::fd::OwnedFd;

/// An open pod.
#[derive(Debug)]
pub struct PodOpened {
    /// The monitor's.
    pub pid: i32,
    /// The first process of the shared PID namespace.
    pub init: Option<i32>,
    /// For a pod with a network of its own.
    pub network: Option<PodNetwork>,
}

/// The way into a pod's network.
#[derive(Debug)]
pub struct PodNetwork {
    /// A route netlink socket that was opened inside.
    pub netlink: OwnedFd,
    /// The network namespace.
    pub netns: OwnedFd,
}

/// A running process.
#[derive(Debug)]
pub struct Started {
    /// In the host's PID namespace.
    pub pid: i32,
    /// Nanoseconds since 1970.
    pub started_at_ns: i64,
    /// What could not be had as asked and was done as near to it as this host allows.
    pub notes: Vec<StageError>,
    /// An exec's terminal, when it was given one.
    pub terminal: Option<OwnedFd>,
}
