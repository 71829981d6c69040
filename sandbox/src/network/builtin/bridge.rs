//! The bridge: chooses a pool, makes it, recognises it, removes it.

use std::path::Path;

use ipnet::IpNet;

use super::candidates::Candidates;
use super::forwarding::{self, set};
use super::record::link_local;
use crate::network::netlink::{
    BridgeLink, InterfaceAddress, Link, Messages, Route, Socket, add_address, addresses, create_bridge,
    delete_link, link_by_index, link_by_name, links, routes, set_group,
};
use crate::network::nft::BRIDGES;
use crate::network::pools::{Pools, overlap};
use crate::network::{NetlinkError, NetworkError, fnv};

const ETHERNET_MTU: u32 = 1500;
const ALIAS_PREFIX: &str = "crisp:";
/// Replaces the interface of a route: a network whose bridge may not exist.
const ANOTHER_NETWORK: u32 = u32::MAX;

/// A bridge and its owner.
#[derive(Debug, Clone)]
pub(super) struct Bridge {
    name: String,
    alias: String,
}

impl Bridge {
    /// `state_dir` distinguishes two servers.
    pub(super) fn new(name: &str, state_dir: &Path) -> Self {
        let state_dir = state_dir.to_string_lossy();
        // The kernel stores 255 bytes; the end of a longer path is more specific.
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

    /// The first pools that overlap no route of the host, except routes of this server's own bridge: it has
    /// no pods when a pool is chosen.
    pub(super) fn free_pools(
        &self,
        socket: &mut Socket,
        Candidates { v4, v6, named_by }: &Candidates,
        others: &[IpNet],
    ) -> Result<Pools, NetworkError> {
        self.find(socket)?;
        let all = links(socket).map_err(self.failed("list interfaces beside"))?;
        let own: Vec<u32> = all.iter().filter(|link| self.is_of_this_server(link)).map(|l| l.index).collect();
        let mut taken = routes(socket).map_err(self.failed("list the host's routes for"))?;
        taken.retain(|route| route.destination.prefix_len() > 0 && !own.contains(&route.device));
        taken.extend(others.iter().map(|pool| Route { destination: *pool, device: ANOTHER_NETWORK }));
        let mut overlaps = |pool: IpNet, setting, route: Route| {
            let device = match route.device {
                ANOTHER_NETWORK => Some("another network of this server".to_owned()),
                device => link_by_index(socket, device).ok().flatten().map(|link| link.name),
            };
            let device = device.unwrap_or_else(|| "no interface".to_owned());
            NetworkError::Overlap { pool, setting, route: route.destination, device }
        };
        let first = first_free(v4, &taken).map_err(|(pool, route)| overlaps(pool, named_by[0], route))?;
        let v6 = first_free(v6, &taken).map_err(|(pool, route)| overlaps(pool, named_by[1], route))?;
        let v4 = first.ok_or(NetworkError::Interrupted("choosing a pool"))?;
        Ok(Pools { v4, v6, gateway: None })
    }

    /// Makes the bridge with its addresses; returns its index.
    pub(super) fn create(&self, socket: &mut Socket, pools: &Pools) -> Result<u32, NetworkError> {
        let made = BridgeLink { name: &self.name, mac: self.mac(), alias: &self.alias, group: BRIDGES };
        create_bridge(socket, &made).map_err(self.failed("make"))?;
        let finished = self.finish(socket, pools);
        finished.inspect_err(|_| {
            // A half-made bridge would be taken for a good one later.
            let _ = delete_link(socket, &self.name);
        })
    }

    /// Sets up the bridge; changes nothing that is already right.
    pub(super) fn finish(&self, socket: &mut Socket, pools: &Pools) -> Result<u32, NetworkError> {
        let link = self.find(socket)?;
        let index = link.ok_or(NetworkError::Interrupted("making the bridge"))?.index;
        // Lets 127.0.0.1:<host port> reach a pod; the packet rules keep pods off the host's 127.0.0.0/8.
        set(&format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.name), "1")?;
        forwarding::ignore_routers(&self.name)?;
        forwarding::set_ipv6(&self.name, pools.v6.is_some())?;
        let mut messages = Messages::new();
        // A bridge of an older server has no group.
        set_group(&mut messages, index, BRIDGES);
        for address in self.addresses(pools) {
            add_address(&mut messages, "add the gateway address", InterfaceAddress { index, address });
        }
        socket.run(messages).map_err(self.failed("set up"))?;
        Ok(index)
    }

    fn addresses(&self, pools: &Pools) -> Vec<IpNet> {
        // Packets that the host forwards to a pod wait until the kernel has resolved the pod's hardware
        // address, which it does from a link-local one.
        let local = pools.v6.map(|_| link_local(self.mac()));
        pools.gateways().into_iter().chain(local).collect()
    }

    /// Whether the existing bridge has exactly the gateway addresses of these pools.
    pub(super) fn serves(&self, socket: &mut Socket, pools: &Pools) -> Result<bool, NetworkError> {
        let Some(link) = self.find(socket)? else { return Ok(false) };
        let all = addresses(socket).map_err(self.failed("list addresses of"))?;
        let has = all.iter().filter(|a| a.index == link.index).map(|a| a.address);
        let (mut has, mut needs): (Vec<IpNet>, _) = (has.collect(), self.addresses(pools));
        has.sort();
        needs.sort();
        Ok(has == needs)
    }

    /// The MTU for the pods' interfaces, if that of the route out is smaller than usual.
    pub(super) fn mtu(&self, socket: &mut Socket) -> Option<u32> {
        let way_out = routes(socket).ok()?.into_iter().find(|route| route.destination.prefix_len() == 0)?;
        let mtu = link_by_index(socket, way_out.device).ok()??.mtu;
        (mtu < ETHERNET_MTU).then_some(mtu)
    }

    /// The bridges that this server made under other names.
    pub(super) fn others(&self, socket: &mut Socket) -> Result<Vec<Self>, NetworkError> {
        let all = links(socket).map_err(self.failed("list interfaces beside"))?;
        let old = all.into_iter().filter(|link| self.is_of_this_server(link) && link.name != self.name);
        Ok(old.map(|link| Self { name: link.name, ..self.clone() }).collect())
    }

    /// Removes the bridge if it exists and is this server's.
    pub(super) fn delete(&self, socket: &mut Socket) -> Result<(), NetworkError> {
        if self.find(socket)?.is_some() {
            delete_link(socket, &self.name).map_err(self.failed("delete"))?;
        }
        Ok(())
    }

    /// A local address made from the name: the same every time, and not that of another bridge.
    pub(super) fn mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, ..] = self.hash().to_be_bytes();
        [0x0a, a, b, c, d, e]
    }

    /// A number for interfaces of this bridge.
    pub(super) fn group(&self) -> u32 {
        let [a, b, c, d, ..] = self.hash().to_le_bytes();
        u32::from_le_bytes([a, b, c, d]) >> 1 | 1
    }

    /// Used only to spread values.
    fn hash(&self) -> u64 {
        fnv::hash(self.name.as_bytes())
    }

    fn failed(&self, what: &'static str) -> impl Fn(NetlinkError) -> NetworkError {
        let step = format!("{what} bridge {}", self.name);
        move |source| NetworkError::Netlink { step: step.clone(), source }
    }
}

/// None when there was no candidate. Otherwise the first free one; if none is free, the conflict.
fn first_free<N: Copy + Into<IpNet>>(candidates: &[N], taken: &[Route]) -> Result<Option<N>, (IpNet, Route)> {
    let clash = |pool: N| taken.iter().find(|route| overlap(route.destination, pool.into())).copied();
    match candidates.iter().find(|pool| clash(**pool).is_none()) {
        Some(free) => Ok(Some(*free)),
        None => match candidates.iter().find_map(|pool| Some(((*pool).into(), clash(*pool)?))) {
            Some(clash) => Err(clash),
            None => Ok(None),
        },
    }
}
