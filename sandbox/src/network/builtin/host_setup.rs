//! What the host shares among all pods, as far as this process has made or checked it.

use super::open_socket;
use crate::network::NetworkError;
use crate::network::netlink::{Protocol, Socket};

/// Forgotten with the process: then it is checked anew.
#[derive(Debug, Default)]
pub(super) struct HostSetup {
    pub bridge_checked: bool,
    pub table_installed: bool,
    /// Kept open: closing one makes the kernel wait for all that was deleted through any of them.
    rules_socket: Option<Socket>,
    pub mtu: Option<u32>,
}

impl HostSetup {
    pub(super) fn rules_socket(&mut self) -> Result<&mut Socket, NetworkError> {
        Ok(match &mut self.rules_socket {
            Some(socket) => socket,
            empty => empty.insert(open_socket(Protocol::Netfilter)?),
        })
    }
}
