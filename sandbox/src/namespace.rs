//! The choice of namespaces for a pod's containers.

use serde::{Deserialize, Serialize};

/// The network or IPC namespace of the pod's containers.
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
