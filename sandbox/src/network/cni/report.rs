//! Reports the pods' CNI resources in the records.

use super::Cni;
use crate::network::report::{NetworkThing, Standing, addresses};

impl Cni {
    pub(in crate::network) fn report(&self) -> Vec<NetworkThing> {
        let known = self.records();
        let joined = known.values().flat_map(|record| record.joined().map(move |joined| (record, joined)));
        let joined = joined.map(|(record, joined)| {
            let ips = joined.attachment.iter().flat_map(|attachment| attachment.ips.iter().copied());
            addresses(ips, &format!("the CNI network {}", joined.network.name), &record.pod)
        });
        let lost = self.lost().into_iter().map(|pod| NetworkThing {
            kind: "address",
            name: format!("of pod {}, whose network record cannot be used", pod.short()),
            standing: Standing::Recorded(pod),
        });
        joined.chain(lost).collect()
    }
}
