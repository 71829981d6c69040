//! The built-in network: one bridge, one address pool, and no program besides the kernel.
//!
//! ```text
//!   pod a                 pod b
//!   eth0 10.88.0.2        eth0 10.88.0.3     and with IPv6: fdXX::2, fdXX::3
//!     |                     |
//!   cr<id a> ---- crisp0 ---- cr<id b>       crisp0 = 10.88.0.1, fdXX::1, the pods' gateway
//!                    |
//!          nft tables crisp-crisp0           masquerade, host ports
//!                    |
//!                  host
//! ```
//!
//! The bridge and the tables are made with the first pod. Forwarding is turned on then and stays on: other
//! programs may rely on it by then.
//!
//! There is the default network of the settings, and named networks; each is a [`Builtin`]. Networks are
//! isolated from each other: pods of other networks only reach the ports that a pod publishes on the host.
//!
//! [`Builtin`] is the shared state of the operations. attach.rs and detach.rs are the two operations,
//! setup.rs maintains bridge and packet rules, state.rs has the addresses of the pods, lost.rs finds pods
//! whose records are lost.

mod attach;
mod bridge;
mod candidates;
mod config;
mod detach;
mod endpoint_request;
mod firewall;
mod forwarding;
mod ipam;
mod iptables_legacy;
mod limit;
mod lost;
mod members;
mod names;
mod record;
mod report;
mod setup;
mod state;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crisp_executor::ids::PodId;
use crisp_operation::record::Durability;
use ipnet::IpNet;

use self::bridge::Bridge;
pub(super) use self::config::{BuiltinConfig, DEFAULT, Options};
pub(super) use self::ipam::has_room;
use self::iptables_legacy::LegacyRules;
pub(crate) use self::lost::LostPod;
pub(super) use self::names::resolve;
use self::record::BuiltinRecord;
pub(crate) use self::report::may_be_of;
pub(super) use self::report::{has_name_of_veth, list_links};
use self::setup::HostSetup;
pub(super) use self::state::DnsSocket;
use self::state::State;
use super::host_ports::HeldPorts;
use super::netlink::{Protocol, Socket};
use super::nft::Published;
use super::node_cidr::NodeCidr;
use super::record::RecordDir;
use super::{Attachment, Exclusions, NetworkError, PodCidrs, PodCidrsV6};

/// The built-in network of one server. All functions block, about as long as the kernel needs.
#[derive(Debug)]
pub(super) struct Builtin {
    name: String,
    bridge_name: String,
    options: Options,
    pools: PodCidrs,
    pools_v6: PodCidrsV6,
    /// The node's pod CIDR from kubelet.
    node: Mutex<Option<NodeCidr>>,
    /// The pools of other networks of this server, whose bridges may not exist yet.
    others: Mutex<Vec<IpNet>>,
    state_dir: PathBuf,
    records: RecordDir,
    /// The addresses of the pods. Never locked during a request to the kernel.
    state: Mutex<State>,
    /// Locked while the bridge or the table change, so that one thread never makes what another removes.
    setup: Mutex<HostSetup>,
    legacy_rules: LegacyRules,
    /// Locked while the interfaces of detached pods are deleted.
    reaping: Mutex<()>,
    /// Whether a thread deletes interfaces until no detached pod is left.
    reaper_runs: AtomicBool,
}

impl Builtin {
    /// Reads the records; their pods keep their addresses and the network, and so do pods whose interfaces
    /// are on the bridge.
    pub(super) fn open(config: BuiltinConfig, node: Option<NodeCidr>) -> Result<Self, NetworkError> {
        let bridge = &config.bridge;
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !(1..=15).contains(&bridge.len()) || !bridge.bytes().all(letters) {
            return Err(NetworkError::BridgeName(bridge.clone()));
        }
        let records = RecordDir::open(config.state_dir.join("pods"), Durability::Process)?;
        let state = State::restore(records.load()?.records, config.options.addresses.clone());
        let builtin = Self {
            name: config.name,
            bridge_name: config.bridge,
            options: config.options,
            pools: config.pools,
            pools_v6: config.pools_v6,
            node: Mutex::new(node),
            others: Mutex::default(),
            state_dir: config.state_dir,
            records,
            state: Mutex::new(state),
            setup: Mutex::new(HostSetup::default()),
            legacy_rules: LegacyRules::default(),
            reaping: Mutex::new(()),
            reaper_runs: AtomicBool::new(false),
        };
        builtin.reap_leftovers();
        builtin.find_orphans();
        builtin.warn_of_old_network();
        Ok(builtin)
    }

    fn warn_of_old_network(&self) {
        let state = self.state();
        let Some((network, _)) = &state.network else { return };
        if !self.wants(network) {
            let (bridge, pools, pods) = (&network.bridge, network.pools, state.pods.len());
            tracing::warn!(%bridge, %pools, pods, "the network before the change stays until its pods are gone");
        }
    }

    /// Pods ignore router advertisements: another pod could claim to be a router, also where pods have no
    /// IPv6 address.
    pub(super) fn pod_sysctls() -> &'static [(&'static str, &'static str)] {
        if forwarding::has_ipv6() { &[("net.ipv6.conf.default.accept_ra", "0")] } else { &[] }
    }

    /// Reserves pools for others.
    pub(super) fn keep_off(&self, others: Vec<IpNet>) {
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = others;
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn masquerade_except(&self) -> Exclusions {
        self.options.masquerade_except.clone()
    }

    /// The pods attached.
    pub(super) fn pods(&self) -> Vec<PodId> {
        self.state().pods.keys().cloned().collect()
    }

    /// The host ports of the pods.
    pub(super) fn ports(&self) -> Vec<HeldPorts> {
        let of = |r: &BuiltinRecord| HeldPorts::new(&r.pod, &r.namespace, &r.name, &r.ports);
        self.state().pods.values().map(of).collect()
    }

    /// The attachment of the pod.
    pub(super) fn attachment(&self, pod: &PodId) -> Option<Attachment> {
        self.state().pods.get(pod).map(|record| record.attachment(&self.name))
    }

    /// The ports of every pod, and those for DNS.
    fn all_published(&self) -> Vec<Published> {
        let state = self.state();
        let dns = state.dns.iter().map(DnsSocket::published);
        state.pods.values().flat_map(BuiltinRecord::published).chain(dns).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present bridge, or the one that would be made.
    fn bridge(&self) -> Bridge {
        match &self.state().network {
            Some((network, _)) => Bridge::new(&network.bridge, &self.state_dir),
            None => Bridge::new(&self.bridge_name, &self.state_dir),
        }
    }
}

fn route_socket() -> Result<Socket, NetworkError> {
    open_socket(Protocol::Route)
}

fn open_socket(protocol: Protocol) -> Result<Socket, NetworkError> {
    let step = || format!("open a {protocol:?} socket");
    Socket::open(protocol).map_err(|source| NetworkError::Netlink { step: step(), source })
}
