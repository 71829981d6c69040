use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crisp_executor::id::PodId;

use super::bridge::{Bridge, enable_forwarding};
use super::ipam::Ipam;
use super::record::{BuiltinRecord, ChosenNetwork, INTERFACE};
use super::setup::Setup;
use crate::network::host_ports::refused;
use crate::network::netlink::{PodAddress, Protocol, Socket, VethPair, create_veth, wait_until_up};
use crate::network::nft::Published;
use crate::network::record::RecordDir;
use crate::network::{
    AttachRequest, Attachment, Ipv4Cidr, NetlinkError, NetworkConfig, NetworkError, PodCidrs, PortMapping,
};

/// The built-in network of one server. All functions block, for about as long as the kernel takes.
#[derive(Debug)]
pub(in crate::network) struct Builtin {
    pub(super) bridge_name: String,
    pub(super) pools: PodCidrs,
    pub(super) state_dir: PathBuf,
    pub(super) records: RecordDir,
    /// Who has what. Never held while the kernel is asked for something.
    pub(super) state: Mutex<State>,
    /// Held while the bridge or the table change, so that nobody makes what another removes.
    pub(super) setup: Mutex<Setup>,
    /// Held by the one who deletes the interfaces of pods that left.
    pub(super) reaping: Mutex<()>,
    /// Whether somebody goes on deleting until no pod is left to be deleted.
    pub(super) reaper_runs: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub network: Option<(ChosenNetwork, Ipam)>,
    pub pods: HashMap<PodId, BuiltinRecord>,
    /// Detached, but their interfaces are not deleted yet: address and record stay until then.
    pub leaving: HashMap<PodId, BuiltinRecord>,
    pub serial: u64,
}

impl Builtin {
    /// Reads the records; the pods they name keep their addresses and the network they are in.
    pub(in crate::network) fn open(config: &NetworkConfig) -> Result<Self, NetworkError> {
        let name = &config.bridge_name;
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !(1..=15).contains(&name.len()) || !name.bytes().all(letters) {
            return Err(NetworkError::BridgeName(name.clone()));
        }
        let records = RecordDir::open(config.state_dir.join("pods"), false)?;
        let state = State::restore(records.load()?);
        let builtin = Self {
            bridge_name: name.clone(),
            pools: config.pod_cidrs.clone(),
            state_dir: config.state_dir.clone(),
            records,
            state: Mutex::new(state),
            setup: Mutex::new(Setup::default()),
            reaping: Mutex::new(()),
            reaper_runs: AtomicBool::new(false),
        };
        builtin.warn_of_old_network();
        Ok(builtin)
    }

    fn warn_of_old_network(&self) {
        let state = self.state();
        let Some((network, _)) = &state.network else { return };
        if network.bridge != self.bridge_name || !self.pools.candidates().contains(&network.pool) {
            let (bridge, pool, pods) = (&network.bridge, network.pool, state.pods.len());
            tracing::warn!(%bridge, %pool, pods, "the network before the change of settings stays until its pods are gone");
        }
    }

    /// The pods attached, with their ports.
    pub(in crate::network) fn pods(&self) -> Vec<(PodId, Vec<PortMapping>)> {
        self.state().pods.values().map(|r| (r.pod.clone(), r.ports.clone())).collect()
    }

    /// What the pod was given.
    pub(in crate::network) fn attachment(&self, pod: &PodId) -> Option<Attachment> {
        self.state().pods.get(pod).map(BuiltinRecord::attachment)
    }

    /// Gives the pod an address, an interface and its published ports.
    pub(in crate::network) fn attach(
        &self,
        request: &AttachRequest,
        ports: &[PortMapping],
    ) -> Result<Attachment, NetworkError> {
        if let Some(port) = ports.iter().find(|p| p.host_ip.is_some_and(|ip| ip.is_ipv6())) {
            return Err(refused(port, "the built-in network publishes ports on IPv4 addresses only"));
        }
        let mut socket = route_socket()?;
        let (record, bridge_index, mtu) = self.reserve(&mut socket, request, ports)?;
        let wired = self.wire(&mut socket, request, &record, bridge_index, mtu);
        wired.map(|()| record.attachment()).map_err(|error| {
            match self.leave(&request.pod).and_then(|()| self.reap()) {
                Ok(_) => error,
                Err(undo) => NetworkError::Undo { error: Box::new(error), undo: Box::new(undo) },
            }
        })
    }

    /// Everything up to the written record; nothing of the pod exists yet.
    fn reserve(
        &self,
        socket: &mut Socket,
        request: &AttachRequest,
        ports: &[PortMapping],
    ) -> Result<(BuiltinRecord, u32, Option<u32>), NetworkError> {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let bridge_index = self.ensure(&mut setup, socket)?;
        enable_forwarding()?;
        if self.state().leaving.contains_key(&request.pod) {
            // The same pod comes back at once: its old interface has the name of the new one.
            self.reap()?;
        }
        let mut record = self.state().insert(request, ports);
        if matches!(record, Err(NetworkError::PoolExhausted { .. })) && self.reap()? {
            record = self.state().insert(request, ports);
        }
        let record = record?;
        if let Err(error) = self.records.write(&record) {
            self.state().forget(&request.pod);
            return Err(error);
        }
        Ok((record, bridge_index, setup.mtu))
    }

    fn wire(
        &self,
        socket: &mut Socket,
        request: &AttachRequest,
        record: &BuiltinRecord,
        bridge_index: u32,
        mtu: Option<u32>,
    ) -> Result<(), NetworkError> {
        let failed = |source: NetlinkError| NetworkError::Netlink {
            step: format!("attach pod {} to bridge {}", record.pod.short(), record.bridge),
            source,
        };
        let veth = VethPair {
            host_name: &record.veth,
            host_mac: record.host_mac(),
            bridge_index,
            mtu,
            pod_name: INTERFACE,
            pod_mac: record.pod_mac(),
            netns: std::os::fd::AsFd::as_fd(&*request.netns),
        };
        create_veth(socket, &veth).map_err(failed)?;
        let gateway = record.pool.gateway();
        let address = PodAddress { address: record.address, network: record.pool, gateway };
        request.netlink.configure(INTERFACE, &address).map_err(failed)?;
        wait_until_up(socket, &record.veth).map_err(failed)?;
        wait_until_up(socket, &record.bridge).map_err(failed)?;
        let ports = record.published();
        if ports.is_empty() { Ok(()) } else { self.publish(&ports) }
    }

    /// The ports of every pod.
    pub(super) fn all_published(&self) -> Vec<Published> {
        self.state().pods.values().flat_map(BuiltinRecord::published).collect()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bridge in force, or the one that would be made.
    pub(super) fn bridge(&self) -> Bridge {
        match &self.state().network {
            Some((network, _)) => Bridge::new(&network.bridge, &self.state_dir),
            None => Bridge::new(&self.bridge_name, &self.state_dir),
        }
    }
}

impl State {
    fn restore(mut records: Vec<BuiltinRecord>) -> Self {
        records.sort_by_key(|r| r.serial);
        let mut state = Self::default();
        if let Some(newest) = records.last() {
            state.choose(ChosenNetwork { bridge: newest.bridge.clone(), pool: newest.pool });
            state.serial = newest.serial;
        }
        for record in records {
            if let Some((_, ipam)) = &mut state.network {
                ipam.restore(record.address);
            }
            state.pods.insert(record.pod.clone(), record);
        }
        state
    }

    pub(super) fn choose(&mut self, network: ChosenNetwork) {
        let pool: Ipv4Cidr = network.pool;
        self.network = Some((network, Ipam::new(pool)));
    }

    fn insert(
        &mut self,
        request: &AttachRequest,
        ports: &[PortMapping],
    ) -> Result<BuiltinRecord, NetworkError> {
        if self.pods.contains_key(&request.pod) {
            return Err(NetworkError::AlreadyAttached { pod: request.pod.clone() });
        }
        let Some((network, ipam)) = &mut self.network else {
            return Err(NetworkError::Interrupted("choosing a pool"));
        };
        let address = ipam.allocate()?;
        self.serial += 1;
        let record = BuiltinRecord::new(request, self.serial, network, address, ports);
        self.pods.insert(request.pod.clone(), record.clone());
        Ok(record)
    }

    pub(super) fn forget(&mut self, pod: &PodId) {
        let record = self.pods.remove(pod).or_else(|| self.leaving.remove(pod));
        if let (Some(record), Some((_, ipam))) = (record, &mut self.network) {
            ipam.release(record.address);
        }
    }
}

pub(super) fn route_socket() -> Result<Socket, NetworkError> {
    open_socket(Protocol::Route)
}

pub(super) fn open_socket(protocol: Protocol) -> Result<Socket, NetworkError> {
    let step = || format!("open a {protocol:?} socket");
    Socket::open(protocol).map_err(|source| NetworkError::Netlink { step: step(), source })
}
