//! Whose namespaces a pod's containers live in.

use serde::{Deserialize, Serialize};

/// Whose network or IPC namespace the pod's containers live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// One that all containers of the pod share.
    Pod,
    /// The host's.
    Host,
}

/// Whose PID namespace the pod's containers live in, unless a container asks otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidMode {
    /// One that all containers of the pod share.
    Pod,
    /// Each container its own.
    Container,
    /// The host's.
    Host,
}
