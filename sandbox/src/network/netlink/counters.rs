//! Interface counters.

use rustix::io::Errno;
use rustix::net::netdevice::index_to_name_inlined;

use super::message::{Messages, attributes, u32_at, u64_at};
use super::socket::{NetlinkError, Socket};

const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;
/// `struct if_stats_msg`: family and padding, interface, mask of the wanted attributes.
const IF_STATS_MSG: usize = 12;
const IFLA_STATS_LINK_64: u16 = 1;
/// The number of `lo` in each network namespace.
const LOOPBACK: u32 = 1;

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

/// Name and counters of every interface but the loopback one. A list of the interfaces has the counters too, but
/// takes the kernel several times as long.
pub(super) fn all_counters(socket: &mut Socket) -> Result<Vec<(String, InterfaceCounters)>, NetlinkError> {
    let mut request = [0; IF_STATS_MSG];
    request[8..].copy_from_slice(&(1u32 << (IFLA_STATS_LINK_64 - 1)).to_ne_bytes());
    let dump = |messages: &mut Messages| {
        messages.dump("read the counters of interfaces", RTM_GETSTATS, &request);
    };
    let mut named = Vec::new();
    for (index, counters) in socket.list(dump, parse)? {
        if index == LOOPBACK {
            continue;
        }
        match index_to_name_inlined(socket.fd(), index) {
            Ok(name) => named.push((String::from_utf8_lossy(name.as_bytes()).into_owned(), counters)),
            // It is gone.
            Err(Errno::NODEV | Errno::NXIO) => {}
            Err(errno) => return Err(NetlinkError::Refused { step: "look up an interface's name", errno }),
        }
    }
    Ok(named)
}

/// An interface's number and counters.
fn parse(kind: u16, payload: &[u8]) -> Option<(u32, InterfaceCounters)> {
    if kind != RTM_NEWSTATS {
        return None;
    }
    let (_, value) =
        attributes(payload.get(IF_STATS_MSG..)?).find(|(kind, _)| *kind == IFLA_STATS_LINK_64)?;
    Some((u32_at(payload, 4)?, counters(value)?))
}
