//! Lists the pods and pools of a network.

use ipnet::IpNet;

use super::Builtin;
use super::record::BuiltinRecord;
use crate::network::pools::Pools;
use crate::network::{NetworkError, NetworkMember};
use crisp_operation::record::remove_folder;

impl Builtin {
    pub(in crate::network) fn bridge_name(&self) -> String {
        self.bridge().name().to_owned()
    }

    /// The pods in it.
    pub(in crate::network) fn members(&self) -> Vec<NetworkMember> {
        let member = |record: &BuiltinRecord| {
            let attachment = record.attachment(&self.name);
            NetworkMember {
                pod: record.pod.clone(),
                namespace: record.namespace.clone(),
                name: record.name.clone(),
                interface: attachment.interface,
                ips: attachment.ips,
                mac: attachment.mac,
            }
        };
        let mut members: Vec<NetworkMember> = self.state().pods.values().map(member).collect();
        members.sort_by(|a, b| a.ips.cmp(&b.ips));
        members
    }

    /// Its pools; none before the first pod, when any free ones may be chosen.
    pub(in crate::network) fn subnets(&self) -> Vec<IpNet> {
        let chosen = self.state().network.as_ref().map(|(network, _)| network.pools);
        chosen.as_ref().map(Pools::networks).unwrap_or_default()
    }

    /// The pools that it has, or that are reserved for it.
    pub(in crate::network) fn reserved(&self) -> Vec<IpNet> {
        let chosen = self.subnets();
        if !chosen.is_empty() {
            return chosen;
        }
        let candidates = self.candidates();
        let v4 = candidates.v4.iter().map(|pool| IpNet::from(*pool));
        let v4: Vec<IpNet> = v4.filter(|_| !self.pools.is_auto() || candidates.v4.len() == 1).collect();
        let v6 = candidates.v6.iter().map(|pool| IpNet::from(*pool));
        v4.into_iter().chain(v6.filter(|_| candidates.v6.len() == 1)).collect()
    }

    /// Removes the records' folder of a removed network.
    pub(in crate::network) fn remove_folder(&self) -> Result<(), NetworkError> {
        remove_folder(&self.state_dir).map_err(crate::network::error::file("remove folder", &self.state_dir))
    }
}
