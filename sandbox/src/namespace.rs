//! The choice of namespaces for a pod's containers.

use crisp_executor::ids::PodId;
use serde::{Deserialize, Serialize};

/// The network namespace of the pod's containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// One that all containers of the pod share.
    Pod,
    /// The host's.
    Host,
    /// That of another pod, with its addresses. The namespace lives as long as one of the two pods; its
    /// interfaces as long as the other.
    Joined(PodId),
}

/// The IPC namespace of the pod's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// One that all containers of the pod share.
    Pod,
    /// The host's.
    Host,
}

/// The PID namespace of the pod's containers, unless a container requests another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidMode {
    /// One that all containers of the pod share.
    Pod,
    /// Each container has its own.
    Container,
    /// The host's.
    Host,
}
