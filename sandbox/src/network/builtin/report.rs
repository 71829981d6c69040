//! Reports a built-in network's things on the machine, and removes orphans.

use std::sync::PoisonError;

use super::record::{BuiltinRecord, VETH_PREFIX, veth_name};
use super::{Builtin, route_socket};
use crate::network::netlink::{Link, delete_link, links};
use crate::network::report::{NetworkThing, Standing, addresses};
use crate::network::{INTERFACE, NetlinkError, NetworkError};
use crisp_executor::ids::PodId;

/// Interfaces of a pod are numbered, `net1`, `net2` ..., unless its annotation names them.
const NUMBERED: std::ops::Range<u8> = 0..10;

/// All interfaces of the host.
pub(in crate::network) fn list_links() -> Result<Vec<Link>, NetworkError> {
    let listed = |source| NetworkError::Netlink { step: "list interfaces".to_owned(), source };
    links(&mut route_socket()?).map_err(listed)
}

/// Whether the name could be that of the host's end of a pair.
pub(in crate::network) fn has_name_of_veth(link: &Link) -> bool {
    let digits = link.name.strip_prefix(VETH_PREFIX).unwrap_or_default();
    let is_number = digits.len() == 11 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    link.kind == "veth" && is_number
}

/// Whether an interface of this name may be the pod's.
pub(crate) fn may_be_of(pod: &PodId, veth: &str) -> bool {
    let is_numbered = |number| veth_name(pod, &format!("net{number}")) == veth;
    veth_name(pod, INTERFACE) == veth || NUMBERED.into_iter().any(is_numbered)
}

impl Builtin {
    /// Its bridge, the interfaces on it, its packet rules, and the addresses in its records.
    pub(in crate::network) fn report(&self, links: &[Link]) -> Result<Vec<NetworkThing>, NetworkError> {
        let own = self.bridge();
        let bridge = links.iter().find(|link| link.name == own.name() && own.is_of_this_server(link));
        let mut things = self.of_records();
        if let Some(bridge) = bridge {
            let standing = Standing::OfNetwork(format!("the network {}", self.name));
            things.push(NetworkThing { kind: "interface", name: bridge.name.clone(), standing });
            let ports = links.iter().filter(|link| link.master == bridge.index);
            things.extend(ports.map(|link| self.interface(link)));
        }
        things.extend(self.rules()?);
        Ok(things)
    }

    fn of_records(&self) -> Vec<NetworkThing> {
        let state = self.state();
        let detached = state.detached.values().map(|record| NetworkThing {
            kind: "address",
            name: format!("{} on {}", record.address, record.bridge),
            standing: Standing::OfNetwork(
                "the pod that had it is gone; it is given back in a moment".to_owned(),
            ),
        });
        let attached = state.pods.values().map(|r| addresses(r.addresses(), &r.bridge, &r.pod));
        attached.chain(detached).collect()
    }

    fn interface(&self, link: &Link) -> NetworkThing {
        let state = self.state();
        let is_it = |record: &&BuiltinRecord| record.veth == link.name;
        let standing = match state.pods.values().find(is_it) {
            Some(record) => Standing::Recorded(record.pod.clone()),
            None if state.detached.values().any(|record| record.veth == link.name) => {
                Standing::OfNetwork("the pod that had it is gone; it is deleted in a moment".to_owned())
            }
            None if has_name_of_veth(link) => Standing::Unrecorded {
                is_on_bridge: true,
                may_be_lost: state.orphans.contains_key(&link.name),
            },
            None => Standing::OfNetwork("another program put it on the bridge".to_owned()),
        };
        NetworkThing { kind: "interface", name: link.name.clone(), standing }
    }

    fn rules(&self) -> Result<Vec<NetworkThing>, NetworkError> {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rules) = self.ruleset() else { return Ok(Vec::new()) };
        let socket = setup.rules_socket()?;
        if !rules.exists(socket).map_err(self.rules_failed("look up"))? {
            return Ok(Vec::new());
        }
        let strays = rules.strays(socket, &self.all_published()).map_err(self.rules_failed("list"))?;
        let of_network = Standing::OfNetwork(format!("the network {}", self.name));
        let table = NetworkThing {
            kind: "packet rule",
            name: format!("table {}", rules.name()),
            standing: of_network,
        };
        let stray = |name| NetworkThing {
            kind: "packet rule",
            name,
            standing: Standing::StrayRule(self.name.clone()),
        };
        let state = self.state();
        let published = state.pods.values().flat_map(|record| {
            let row = |port: super::Published| NetworkThing {
                kind: "packet rule",
                name: format!("{port} in table {}", rules.name()),
                standing: Standing::Recorded(record.pod.clone()),
            };
            record.published().into_iter().map(row)
        });
        let strays = strays.iter().map(|stray| format!("{stray} in table {}", rules.name()));
        Ok(std::iter::once(table).chain(published).chain(strays.map(stray)).collect())
    }

    /// Removes rules for ports that no pod publishes.
    pub(in crate::network) fn remove_stray_rules(&self) -> Result<(), NetworkError> {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rules) = self.ruleset() else { return Ok(()) };
        let socket = setup.rules_socket()?;
        let strays = rules.strays(socket, &self.all_published()).map_err(self.rules_failed("list"))?;
        rules.remove_strays(socket, &strays).map_err(self.rules_failed("remove strays from"))
    }

    /// Removes an interface without a record.
    pub(in crate::network) fn remove_interface(&self, name: &str) -> Result<(), NetworkError> {
        let failed =
            |source: NetlinkError| NetworkError::Netlink { step: format!("delete interface {name}"), source };
        delete_link(&mut route_socket()?, name).map(drop).map_err(failed)
    }

    /// Releases the address of an interface that is gone.
    pub(in crate::network) fn forget_interface(&self, name: &str) {
        self.state().forget_orphan(name);
    }
}
