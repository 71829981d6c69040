//! Names and addresses of the pods of networks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crisp_executor::ids::PodId;

use super::Builtin;
use super::record::BuiltinRecord;

impl Builtin {
    /// The bridge's own addresses, once there are pools.
    pub(in crate::network) fn gateways(&self) -> Vec<IpAddr> {
        let pools = self.state().network.as_ref().map(|(network, _)| network.pools);
        pools.into_iter().flat_map(|pools| pools.gateways()).map(|gateway| gateway.addr()).collect()
    }

    pub(in crate::network) fn is_internal(&self) -> bool {
        self.options.internal
    }

    /// The pod with this address.
    pub(in crate::network) fn pod_at(&self, ip: IpAddr) -> Option<PodId> {
        let state = self.state();
        state.pods.values().find(|record| record.has_address(ip)).map(|record| record.pod.clone())
    }

    /// The name of the pod with this address.
    pub(in crate::network) fn name_of(&self, ip: IpAddr) -> Option<String> {
        let state = self.state();
        let record = state.pods.values().find(|record| record.has_address(ip))?;
        Some(format!("{}.{}", record.name, record.namespace))
    }

    fn namespace_of(&self, pod: &PodId) -> Option<String> {
        self.state().pods.get(pod).map(|record| record.namespace.clone())
    }

    /// The namespaces of the pods with this name.
    fn namespaces_with(&self, name: &str) -> BTreeSet<String> {
        let state = self.state();
        let named = state.pods.values().filter(|record| has_name(record, name));
        named.map(|record| record.namespace.clone()).collect()
    }

    /// The addresses of some of its pods. None when there are no such pods.
    fn addresses_of(&self, is_one: &dyn Fn(&BuiltinRecord) -> bool) -> Option<Vec<IpAddr>> {
        let state = self.state();
        let found = state.pods.values().filter(|record| is_one(record));
        let mut addresses: Vec<IpAddr> = found.flat_map(BuiltinRecord::addresses).collect();
        addresses.sort();
        (!addresses.is_empty()).then_some(addresses)
    }
}

/// The addresses of the pods with this name, in lower case, in the first of the networks that has them, for a query
/// from a pod in all these networks. None when no pod has the name.
///
/// Pods in the client's own namespace take precedence. From other namespaces, `NAME.NAMESPACE` resolves to a pod, and
/// so does a name without a dot that exists in only one namespace; a name with a dot is otherwise a name of the
/// Internet.
pub(in crate::network) fn resolve(
    networks: &[Arc<Builtin>],
    name: &str,
    client: Option<&PodId>,
) -> Option<Vec<IpAddr>> {
    let first = |is_one: &dyn Fn(&BuiltinRecord) -> bool| {
        networks.iter().find_map(|network| network.addresses_of(is_one))
    };
    let namespace = networks.iter().find_map(|network| network.namespace_of(client?));
    let is_beside = |record: &BuiltinRecord| Some(&record.namespace) == namespace.as_ref();
    let found = first(&|record| is_beside(record) && has_name(record, name))
        .or_else(|| first(&|record| has_full_name(record, name)));
    if found.is_some() || name.contains('.') {
        return found;
    }
    let namespaces: BTreeSet<String> =
        networks.iter().flat_map(|network| network.namespaces_with(name)).collect();
    if namespaces.len() > 1 { None } else { first(&|record| has_name(record, name)) }
}

fn has_name(record: &BuiltinRecord, name: &str) -> bool {
    let is_name = |own: &String| own.eq_ignore_ascii_case(name);
    is_name(&record.name) || record.aliases.iter().any(is_name)
}

/// `NAME.NAMESPACE`.
fn has_full_name(record: &BuiltinRecord, name: &str) -> bool {
    name.split_once('.').is_some_and(|(first, namespace)| {
        record.name.eq_ignore_ascii_case(first) && record.namespace.eq_ignore_ascii_case(namespace)
    })
}
