//! Interface counters.

use super::message::u64_at;

/// Traffic through an interface since it was made, from the pod's point of view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets dropped on receipt, including those for which the device had no space, as in /proc/net/dev.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets dropped instead of sent.
    pub tx_dropped: u64,
}

/// `struct rtnl_link_stats64` begins with eight of these.
pub(super) fn counters(value: &[u8]) -> Option<InterfaceCounters> {
    Some(InterfaceCounters {
        rx_packets: u64_at(value, 0)?,
        tx_packets: u64_at(value, 8)?,
        rx_bytes: u64_at(value, 16)?,
        tx_bytes: u64_at(value, 24)?,
        rx_errors: u64_at(value, 32)?,
        tx_errors: u64_at(value, 40)?,
        rx_dropped: u64_at(value, 48)?.saturating_add(u64_at(value, 120).unwrap_or(0)),
        tx_dropped: u64_at(value, 56)?,
    })
}
