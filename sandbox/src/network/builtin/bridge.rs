//! The bridge: choosing a pool, making it, recognising it, removing it.

use std::fs;
use std::path::Path;

use crate::network::netlink::{
    BridgeLink, InterfaceAddress, Link, Messages, Socket, add_address, addresses, create_bridge, delete_link,
    link_by_index, link_by_name, links, routes,
};
use ipnet::Ipv4Net;

use crate::network::error::file;
use crate::network::pools::{gateway, overlap};
use crate::network::{NetlinkError, NetworkError};

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const ETHERNET_MTU: u32 = 1500;
const ALIAS_PREFIX: &str = "crisp:";

/// A bridge and whose it is.
#[derive(Debug, Clone)]
pub(super) struct Bridge {
    name: String,
    alias: String,
}

impl Bridge {
    /// `state_dir` is what tells two servers apart.
    pub(super) fn new(name: &str, state_dir: &Path) -> Self {
        let state_dir = state_dir.to_string_lossy();
        // The kernel has room for 255 bytes; of a longer path the end tells more.
        let tail = state_dir
            .char_indices()
            .rev()
            .map(|(at, _)| at)
            .take_while(|at| state_dir.len() - at <= 240)
            .last();
        let alias = format!("{ALIAS_PREFIX}{}", &state_dir[tail.unwrap_or(0)..]);
        Self { name: name.to_owned(), alias }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether this server made the interface as a bridge, under this name or an earlier one.
    pub(super) fn is_of_this_server(&self, link: &Link) -> bool {
        link.kind == "bridge" && link.alias == self.alias
    }

    /// The bridge, if it exists.
    pub(super) fn find(&self, socket: &mut Socket) -> Result<Option<Link>, NetworkError> {
        let Some(link) = link_by_name(socket, &self.name).map_err(self.failed("look up"))? else {
            return Ok(None);
        };
        let why = if link.kind != "bridge" {
            "is not a bridge".to_owned()
        } else if let Some(owner) = link.alias.strip_prefix(ALIAS_PREFIX).filter(|_| link.alias != self.alias)
        {
            format!("belongs to the server with its network state in {owner}")
        } else if link.alias != self.alias {
            "was made by another program".to_owned()
        } else {
            return Ok(Some(link));
        };
        Err(NetworkError::BridgeTaken { name: self.name.clone(), why })
    }

    /// The first pool that no route of the host reaches into, other than by this very bridge.
    pub(super) fn free_pool(&self, socket: &mut Socket, pools: &[Ipv4Net]) -> Result<Ipv4Net, NetworkError> {
        let own = self.find(socket)?.map(|link| link.index);
        let mut taken = routes(socket).map_err(self.failed("list the host's routes for"))?;
        taken.retain(|route| route.destination.prefix_len() > 0 && Some(route.device) != own);
        let clash = |pool: &Ipv4Net| taken.iter().find(|route| overlap(route.destination, *pool)).copied();
        if let Some(free) = pools.iter().find(|pool| clash(pool).is_none()) {
            return Ok(*free);
        }
        let Some((pool, route)) = pools.iter().find_map(|pool| Some((*pool, clash(pool)?))) else {
            return Err(NetworkError::Interrupted("choosing a pool"));
        };
        let device = link_by_index(socket, route.device).ok().flatten().map(|link| link.name);
        let device = device.unwrap_or_else(|| "no interface".to_owned());
        Err(NetworkError::Overlap { pool, route: route.destination, device })
    }

    /// Makes the bridge with its address; returns its index.
    pub(super) fn create(&self, socket: &mut Socket, pool: Ipv4Net) -> Result<u32, NetworkError> {
        let made = BridgeLink { name: &self.name, mac: self.mac(), alias: &self.alias };
        create_bridge(socket, &made).map_err(self.failed("make"))?;
        let finished = self.finish(socket, pool);
        finished.inspect_err(|_| {
            // Left half-made it would pass for a good one.
            let _ = delete_link(socket, &self.name);
        })
    }

    /// Gives the bridge what it needs; changes nothing where it has that.
    pub(super) fn finish(&self, socket: &mut Socket, pool: Ipv4Net) -> Result<u32, NetworkError> {
        let link = self.find(socket)?;
        let index = link.ok_or(NetworkError::Interrupted("making the bridge"))?.index;
        let gateway = gateway(pool);
        let mut messages = Messages::new();
        let address = InterfaceAddress {
            index,
            address: gateway,
            prefix: pool.prefix_len(),
            broadcast: pool.broadcast(),
        };
        add_address(&mut messages, "add the gateway address", &address);
        socket.run(messages).map_err(self.failed("set up"))?;
        // Lets 127.0.0.1:<host port> reach a pod; the packet rules keep pods off the host's 127.0.0.0/8.
        set(&format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.name), "1")?;
        Ok(index)
    }

    /// Whether the bridge that exists has this pool's gateway address.
    pub(super) fn serves(&self, socket: &mut Socket, pool: Ipv4Net) -> Result<bool, NetworkError> {
        let Some(link) = self.find(socket)? else { return Ok(false) };
        let all = addresses(socket).map_err(self.failed("list addresses of"))?;
        Ok(all
            .iter()
            .any(|a| a.index == link.index && a.address == gateway(pool) && a.prefix == pool.prefix_len()))
    }

    /// The MTU for the pods' interfaces when the way out has a smaller one than usual.
    pub(super) fn mtu(&self, socket: &mut Socket) -> Option<u32> {
        let way_out = routes(socket).ok()?.into_iter().find(|route| route.destination.prefix_len() == 0)?;
        let mtu = link_by_index(socket, way_out.device).ok()??.mtu;
        (mtu < ETHERNET_MTU).then_some(mtu)
    }

    /// Removes bridges that this server made under other names, when nothing uses them any more.
    pub(super) fn delete_others(&self, socket: &mut Socket) -> Result<Vec<String>, NetworkError> {
        let all = links(socket).map_err(self.failed("list interfaces beside"))?;
        let old = all.into_iter().filter(|link| self.is_of_this_server(link) && link.name != self.name);
        let names: Vec<String> = old.map(|l| l.name).collect();
        for name in &names {
            delete_link(socket, name).map_err(self.failed("replace an old bridge by"))?;
        }
        Ok(names)
    }

    /// Removes the bridge if it is there and ours.
    pub(super) fn delete(&self, socket: &mut Socket) -> Result<(), NetworkError> {
        if self.find(socket)?.is_some() {
            delete_link(socket, &self.name).map_err(self.failed("delete"))?;
        }
        Ok(())
    }

    /// A local address made from the name: the same every time, and not that of another bridge.
    fn mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, ..] = self.hash().to_be_bytes();
        [0x0a, a, b, c, d, e]
    }

    /// A number for interfaces of this bridge.
    pub(super) fn group(&self) -> u32 {
        let [a, b, c, d, ..] = self.hash().to_le_bytes();
        u32::from_le_bytes([a, b, c, d]) >> 1 | 1
    }

    /// FNV-1a of the name; nothing depends on it but that it spreads.
    fn hash(&self) -> u64 {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
    }

    fn failed(&self, what: &'static str) -> impl Fn(NetlinkError) -> NetworkError {
        let step = format!("{what} bridge {}", self.name);
        move |source| NetworkError::Netlink { step: step.clone(), source }
    }
}

/// Turns forwarding on, if it is off.
pub(super) fn enable_forwarding() -> Result<(), NetworkError> {
    set(IP_FORWARD, "1")
}

fn set(path: &str, value: &str) -> Result<(), NetworkError> {
    // Reading first lets it work where the setting is right and /proc/sys is read-only.
    if fs::read_to_string(path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(path, value).map_err(file("write", Path::new(path)))
}
