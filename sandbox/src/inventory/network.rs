//! Bridges and interfaces, addresses, packet rules and host ports, from the reports of the networks.

use crisp_executor::ids::PodId;

use super::{Leftover, Orphan, Owner, Owners, Proof, Thing};
use crate::namespace::NetworkMode;
use crate::network::{NetworkReport, NetworkThing, Standing, may_be_of};

pub(super) fn list(owners: &Owners<'_>) -> Vec<Thing> {
    let NetworkReport { things, failures } = owners.service.networks.report();
    for error in failures {
        tracing::warn!(%error, "not all of a network can be listed");
    }
    things.into_iter().map(|thing| of_network(owners, thing)).collect()
}

fn of_network(owners: &Owners<'_>, thing: NetworkThing) -> Thing {
    let NetworkThing { kind, name, standing } = thing;
    let owner = match standing {
        Standing::Recorded(pod) => of_record(owners, &pod, || Leftover::Attachment(pod.clone())),
        Standing::HostPort(pod) => of_record(owners, &pod, || Leftover::HostPorts(pod.clone())),
        Standing::OfNetwork(what) => Owner::Server(what),
        Standing::StrayRule(network) => {
            let why = "no pod publishes this port".to_owned();
            Owner::Orphan(Orphan { why, leftover: Leftover::PacketRules(network) })
        }
        Standing::Unrecorded { is_on_bridge, may_be_lost } => {
            unrecorded(owners, &name, is_on_bridge, may_be_lost)
        }
    };
    Thing { kind, name, owner }
}

/// Records are in this server's own folder.
fn of_record(owners: &Owners<'_>, pod: &PodId, leftover: impl FnOnce() -> Leftover) -> Owner {
    owners.of(pod.as_str(), Proof::Place, leftover)
}

/// The owner of an interface without a record: its name is derived from the id of its pod.
fn unrecorded(owners: &Owners<'_>, name: &str, is_on_bridge: bool, may_be_lost: bool) -> Owner {
    let is_of = |id: &str| PodId::parse(id).is_ok_and(|pod| may_be_of(&pod, name));
    let leftover = || Leftover::Interface(name.to_owned());
    match owners.whole_id(is_of) {
        Some(id) => owners.of(&id, Proof::Missing, leftover),
        // Annotations name interfaces, too, and those names cannot be derived.
        None if is_on_bridge && may_be_lost && has_pod_with_network(owners) => {
            Owner::Server("a pod whose network record is lost may have it".to_owned())
        }
        None if is_on_bridge => {
            let why = "it is on a bridge of this server, and no pod has it".to_owned();
            Owner::Orphan(Orphan { why, leftover: leftover() })
        }
        None => Owner::Another("the journal has no pod that would have it".to_owned()),
    }
}

fn has_pod_with_network(owners: &Owners<'_>) -> bool {
    let pods = owners.service.table.list();
    pods.iter().any(|pod| pod.config.network == NetworkMode::Pod && !pod.status().state.is_torn_down())
}
