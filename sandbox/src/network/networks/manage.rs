//! Named networks, and a list of all networks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use crisp_executor::ids::PodId;
use crisp_operation::clock;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::task::spawn_blocking;

use super::new_network::{NewNetwork, Refused, candidates, check_addresses, check_pools};
use super::{Inner, Networks};
use crate::network::builtin::{Builtin, BuiltinConfig, DEFAULT};
use crate::network::definition::Definition;
use crate::network::pools::{Pools, overlap};
use crate::network::selection::NONE;
use crate::network::{Addresses, Exclusions, NetworkError, PodCidrs, PodCidrsV6, fnv};

/// Names with another meaning.
const RESERVED: [&str; 6] = [DEFAULT, "host", "none", "pod", "cni", "built-in"];
/// The prefix of bridge names, and the remaining length within the kernel's limit.
const BRIDGE: &str = "cr-";
const BRIDGE_ROOM: usize = 12;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInfo {
    pub name: String,
    /// The bridge of a built-in network.
    pub bridge: Option<String>,
    /// The file of a CNI network.
    pub file: Option<String>,
    pub subnets: Vec<IpNet>,
    pub mtu: Option<u32>,
    pub internal: bool,
    pub icc: bool,
    pub masquerade_except: Exclusions,
    pub addresses: Addresses,
    pub labels: BTreeMap<String, String>,
    /// Whether pods get it by default.
    pub is_first: bool,
    /// Nanoseconds since 1970; 0 if unknown.
    pub created_at: i64,
    pub members: Vec<NetworkMember>,
}

/// A pod in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkMember {
    pub pod: PodId,
    pub namespace: String,
    pub name: String,
    pub interface: String,
    pub ips: Vec<IpAddr>,
    pub mac: Option<String>,
}

/// The reason why a network is not made or removed, or a pod does not join or leave it.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    #[error("network {name} exists: {what}")]
    Exists { name: String, what: String },
    #[error("there is no network {0}")]
    Unknown(String),
    #[error("network {name} cannot be removed: {why}")]
    NotRemovable { name: String, why: String },
    #[error("network {name} is in use by {pods}: remove these pods first")]
    InUse { name: String, pods: String },
    #[error("pod {pod} and network {network}: {why}")]
    NotConnected { network: String, pod: String, why: &'static str },
    #[error(transparent)]
    Failed(#[from] NetworkError),
}

impl Networks {
    /// Makes a network. Its bridge is made with its first pod.
    ///
    /// # Errors
    /// The request is not valid, or the network cannot be made.
    pub async fn create(&self, new: NewNetwork) -> Result<NetworkInfo, ManageError> {
        let inner = Arc::clone(&self.0);
        let created = spawn_blocking(move || inner.create(&new)).await;
        created.unwrap_or_else(|_| Err(NetworkError::Interrupted("making a network").into()))
    }

    /// Removes a network that has no pods.
    ///
    /// # Errors
    /// Pods are in it, or something cannot be removed.
    pub async fn remove(&self, name: String) -> Result<(), ManageError> {
        let inner = Arc::clone(&self.0);
        let removed = spawn_blocking(move || inner.remove(&name)).await;
        removed.unwrap_or_else(|_| Err(NetworkError::Interrupted("removing a network").into()))
    }

    /// Removes all named networks without pods; returns their names.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn prune(&self) -> Result<Vec<String>, ManageError> {
        let inner = Arc::clone(&self.0);
        let pruned = spawn_blocking(move || inner.prune()).await;
        pruned.unwrap_or_else(|_| Err(NetworkError::Interrupted("removing networks").into()))
    }

    /// All networks: the built-in ones, and the valid CNI configurations.
    ///
    /// # Errors
    /// The CNI folder cannot be listed.
    pub async fn list(&self) -> Result<Vec<NetworkInfo>, NetworkError> {
        let inner = Arc::clone(&self.0);
        let listed = spawn_blocking(move || inner.list()).await;
        listed.unwrap_or(Err(NetworkError::Interrupted("listing networks")))
    }
}

impl Inner {
    fn create(&self, new: &NewNetwork) -> Result<NetworkInfo, ManageError> {
        let _changing = self.builtins.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_name(&new.name)?;
        if new.internal && !new.masquerade_except.is_empty() {
            let why =
                "pods of an internal network reach nothing that they could be masqueraded to".to_owned();
            return Err(ManageError::Invalid { field: "masquerade_except", why });
        }
        let (v4, v6) = candidates(new).map_err(invalid)?;
        check_addresses(new).map_err(invalid)?;
        let definition = Definition {
            name: new.name.clone(),
            bridge: bridge_name(&new.name),
            // Until they are chosen.
            pools: Pools { v4: v4.candidates()[0], v6: None, gateway: None },
            mtu: new.mtu,
            internal: new.internal,
            icc: new.icc,
            masquerade_except: new.masquerade_except.clone(),
            addresses: new.addresses.clone(),
            labels: new.labels.clone(),
            created_at: clock::now(),
        };
        let trial = BuiltinConfig {
            pools: self.without_taken(&v4)?,
            pools_v6: self.without_taken_v6(v6)?,
            ..self.builtins.config_of(&definition)
        };
        let trial = Builtin::open(trial, None)?;
        let pools = trial.free().map_err(ManageError::from);
        let pools = pools.and_then(|pools| check_pools(new, pools).map(|()| pools).map_err(invalid));
        let pools = pools.inspect_err(|_| {
            // Records in it belong to pods of a network whose definition was lost.
            if trial.pods().is_empty() {
                drop(trial.remove_folder());
            }
        })?;
        let definition = Definition { pools, ..definition };
        let network = Arc::new(Builtin::open(self.builtins.config_of(&definition), None)?);
        self.builtins.definitions.write(&definition).map_err(NetworkError::from)?;
        self.builtins.insert(definition.clone(), Arc::clone(&network));
        Ok(network_info(&definition, &network))
    }

    fn check_name(&self, name: &str) -> Result<(), ManageError> {
        let invalid = |why: &str| Err(ManageError::Invalid { field: "name", why: format!("{name:?} {why}") });
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts || name.len() > 63 || !name.bytes().all(allowed) {
            return invalid(
                "is not a network name: a letter or digit, then up to 62 letters, digits, '.', '_' and '-'",
            );
        }
        if RESERVED.contains(&name) {
            return invalid("has a meaning of its own where networks are named");
        }
        let exists = |what: String| Err(ManageError::Exists { name: name.to_owned(), what });
        if self.builtins.get(name).is_some() {
            return exists("remove it first".to_owned());
        }
        match self.cni.named(name)? {
            Some(list) => exists(format!("it is that of {}", list.path.display())),
            None => Ok(()),
        }
    }

    /// Pools that no other network of this server has, even if its bridge does not exist.
    fn without_taken(&self, pools: &PodCidrs) -> Result<PodCidrs, ManageError> {
        let free: Vec<Ipv4Net> = pools
            .candidates()
            .iter()
            .filter(|pool| self.taken_by((**pool).into()).is_none())
            .copied()
            .collect();
        match (free.is_empty(), pools.candidates().first()) {
            (true, Some(pool)) => Err(self.taken((*pool).into())),
            _ => Ok(PodCidrs::of(free)),
        }
    }

    fn without_taken_v6(&self, pools: PodCidrsV6) -> Result<PodCidrsV6, ManageError> {
        let all = pools.candidates();
        let free: Vec<Ipv6Net> =
            all.iter().filter(|pool| self.taken_by((**pool).into()).is_none()).copied().collect();
        match (free.is_empty(), all.first()) {
            (true, Some(pool)) => Err(self.taken((*pool).into())),
            (true, None) => Ok(PodCidrsV6::Off),
            _ => Ok(PodCidrsV6::Of(free)),
        }
    }

    fn taken(&self, pool: IpNet) -> ManageError {
        let by = self.taken_by(pool).unwrap_or_default();
        ManageError::Invalid { field: "subnet", why: format!("{pool} overlaps that of network {by}") }
    }

    fn taken_by(&self, pool: IpNet) -> Option<String> {
        let overlaps = |network: &Arc<Builtin>| network.reserved().into_iter().any(|own| overlap(own, pool));
        self.builtins.all().iter().find(|network| overlaps(network)).map(|network| network.name().to_owned())
    }

    fn remove(&self, name: &str) -> Result<(), ManageError> {
        let _changing = self.builtins.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let not_removable = |why: String| ManageError::NotRemovable { name: name.to_owned(), why };
        if name == DEFAULT {
            return Err(not_removable("it is that of the settings".to_owned()));
        }
        if name == "host" || name == NONE {
            return Err(not_removable("it is none that was made".to_owned()));
        }
        let Some(network) = self.builtins.get(name) else {
            return Err(match self.cni.named(name)? {
                Some(list) => not_removable(format!("delete its file {}", list.path.display())),
                None => ManageError::Unknown(name.to_owned()),
            });
        };
        if !network.close_for_good()? {
            let pods: Vec<String> = network.members().iter().map(NetworkMember::to_string).collect();
            return Err(ManageError::InUse { name: name.to_owned(), pods: pods.join(", ") });
        }
        self.dns.stop(name);
        self.builtins.definitions.remove(name)?;
        self.builtins.forget(name);
        Ok(network.remove_folder()?)
    }

    fn prune(&self) -> Result<Vec<String>, ManageError> {
        let (mut removed, mut failure) = (Vec::new(), None);
        for (Definition { name, .. }, _) in self.builtins.named() {
            match self.remove(&name) {
                Ok(()) => removed.push(name),
                Err(ManageError::InUse { .. }) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(removed), Err)
    }

    fn list(&self) -> Result<Vec<NetworkInfo>, NetworkError> {
        let in_force = self.in_force().ok().flatten();
        let built_in_is_first = matches!(self.in_force(), Ok(None));
        let default = NetworkInfo { is_first: built_in_is_first, ..self.default_info() };
        let named = self.builtins.named();
        let named = named.iter().map(|(definition, network)| network_info(definition, network));
        let cni = self.cni.all()?.into_iter().map(|list| NetworkInfo {
            name: list.name.clone(),
            bridge: None,
            file: Some(list.path.display().to_string()),
            subnets: Vec::new(),
            mtu: None,
            internal: false,
            icc: true,
            masquerade_except: Exclusions::default(),
            addresses: Addresses::default(),
            labels: BTreeMap::new(),
            is_first: in_force.as_ref().is_some_and(|first| first.path == list.path),
            created_at: 0,
            members: self.cni.members(&list.name),
        });
        Ok(std::iter::once(default).chain(named).chain(cni).collect())
    }

    fn default_info(&self) -> NetworkInfo {
        let network = &self.builtins.default;
        NetworkInfo {
            name: DEFAULT.to_owned(),
            bridge: Some(network.bridge_name()),
            file: None,
            subnets: network.subnets(),
            mtu: None,
            internal: false,
            icc: true,
            masquerade_except: network.masquerade_except(),
            addresses: Addresses::default(),
            labels: BTreeMap::new(),
            is_first: false,
            created_at: 0,
            members: network.members(),
        }
    }
}

fn network_info(definition: &Definition, network: &Builtin) -> NetworkInfo {
    let Definition {
        name,
        bridge,
        pools,
        mtu,
        internal,
        icc,
        masquerade_except,
        addresses,
        labels,
        created_at,
    } = definition.clone();
    NetworkInfo {
        name,
        bridge: Some(bridge),
        file: None,
        subnets: pools.networks(),
        mtu,
        internal,
        icc,
        masquerade_except,
        addresses,
        labels,
        is_first: false,
        created_at,
        members: network.members(),
    }
}

fn invalid((field, why): Refused) -> ManageError {
    ManageError::Invalid { field, why }
}

/// The network's own name, if the kernel accepts it.
fn bridge_name(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.len() <= BRIDGE_ROOM && name.bytes().all(plain) {
        return format!("{BRIDGE}{name}");
    }
    format!("{BRIDGE}{:012x}", fnv::hash(name.as_bytes()) >> 16)
}

impl std::fmt::Display for NetworkMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pod {}/{} ({})", self.namespace, self.name, self.pod.short())
    }
}
