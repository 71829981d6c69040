//! Names and addresses of the pods of a network.

use std::net::IpAddr;

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

    /// The addresses of the pods with this name, in lower case, for a query from the pod with the address
    /// `client`. None when no pod has the name.
    ///
    /// Pods in the client's own namespace take precedence. From other namespaces, `NAME.NAMESPACE` resolves
    /// to a pod, and so does a name without a dot that exists in only one namespace; a name with a dot is
    /// otherwise a name of the Internet.
    pub(in crate::network) fn resolve(&self, name: &str, client: IpAddr) -> Option<Vec<IpAddr>> {
        let state = self.state();
        let namespace = state.pods.values().find(|record| record.has_address(client)).map(|r| &r.namespace);
        let named = |record: &&BuiltinRecord| has_name(record, name);
        let mut found: Vec<&BuiltinRecord> =
            state.pods.values().filter(|record| Some(&record.namespace) == namespace).filter(named).collect();
        if found.is_empty() {
            found = state.pods.values().filter(|record| has_full_name(record, name)).collect();
        }
        if found.is_empty() && !name.contains('.') {
            found = state.pods.values().filter(named).collect();
            if found.iter().any(|record| record.namespace != found[0].namespace) {
                return None;
            }
        }
        let mut addresses: Vec<IpAddr> = found.iter().flat_map(|record| record.addresses()).collect();
        addresses.sort();
        (!addresses.is_empty()).then_some(addresses)
    }

    /// The name of the pod with this address.
    pub(in crate::network) fn name_of(&self, ip: IpAddr) -> Option<String> {
        let state = self.state();
        let record = state.pods.values().find(|record| record.has_address(ip))?;
        Some(format!("{}.{}", record.name, record.namespace))
    }
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
