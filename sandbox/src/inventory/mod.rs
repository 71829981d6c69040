//! Everything that this server has made on the machine and that exists now, each thing with its owner. A
//! thing without an owner is an orphan.
//!
//! ```text
//!   /proc       processes.rs ──┐
//!   cgroups     cgroups.rs   ──┤           by an id in its name, or by its place
//!   /run/netns, mounts.rs    ──┼─> Thing ─────────────────────────────────────────> Owner
//!   network     network.rs   ──┤                                                      │
//!   folders     folders.rs   ──┘                                          Orphan ─> remove.rs
//! ```
//!
//! The owner follows from an id of 64 random digits, or from a path or name that only this server uses: its
//! folders, its bridges, its packet rules. An id proves that a thing is this server's if the server knows it
//! or has known it (from its journal); ids of other servers on the machine have the same form. Things without
//! proof are listed as [`Owner::Another`], and never removed.

mod cgroups;
mod folders;
mod mounts;
mod network;
mod processes;
mod remove;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::PoisonError;

use crisp_executor::cgroup::CgroupPath;
use crisp_executor::ids::{ContainerId, PodId};

pub use self::remove::NotRemoved;
pub(crate) use self::remove::remove;
use crate::service_state::ServiceState;

/// A thing on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// For people: `process`, `cgroup`.
    pub kind: &'static str,
    pub name: String,
    pub owner: Owner,
}

/// The owner of a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Pod(PodId),
    Container(ContainerId),
    /// This server as a whole, or an operation under way, with the purpose.
    Server(String),
    /// Probably another server, with the reason.
    Another(String),
    Orphan(Orphan),
}

/// A thing without an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// For people.
    pub why: String,
    pub leftover: Leftover,
}

/// A thing to remove, and the way to do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// A process with the resources of its owner.
    Process(i32),
    Cgroup(CgroupPath),
    /// A network namespace that is mounted at this path.
    NetworkNamespace(PathBuf),
    Mount(PathBuf),
    /// An interface, by name.
    Interface(String),
    /// Packet rules of the built-in network with this name that publish ports for no pod.
    PacketRules(String),
    /// The networks in the records of the pod.
    Attachment(PodId),
    HostPorts(PodId),
    Folder(PathBuf),
}

/// The present and past owners.
#[derive(Debug, Default)]
pub struct KnownOwners {
    pub containers: HashSet<ContainerId>,
    /// The folder of the containers' folders.
    pub container_folders: PathBuf,
    /// Ids in operations under way: their things may exist although they are not listed.
    pub under_way: HashSet<String>,
    /// Ids of pods and containers that this server or one before it has made.
    pub past: HashSet<String>,
}

/// Everything that exists now.
pub(crate) fn list(service: &ServiceState, known: &KnownOwners) -> Vec<Thing> {
    let owners = Owners { service, known };
    let mut all = processes::list(&owners);
    all.extend(cgroups::list(&owners));
    all.extend(mounts::list(&owners));
    all.extend(network::list(&owners));
    all.extend(folders::list(&owners));
    all
}

/// Finds owners by ids.
#[derive(Clone, Copy)]
struct Owners<'a> {
    service: &'a ServiceState,
    known: &'a KnownOwners,
}

/// The proof that a thing with an unknown id is this server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// Only this server uses the path or name.
    Place,
    /// None: the id must be known from the past.
    Missing,
}

impl Owners<'_> {
    /// The owner of a thing with this id in its name.
    fn of(&self, id: &str, proof: Proof, leftover: impl FnOnce() -> Leftover) -> Owner {
        if let Some(owner) = self.living(id) {
            return owner;
        }
        let why = match proof {
            _ if self.known.past.contains(id) => "its pod or container is gone",
            Proof::Place => "no pod or container has its id",
            Proof::Missing => {
                return Owner::Another("the journal has no pod or container of its id".to_owned());
            }
        };
        Owner::Orphan(Orphan { why: why.to_owned(), leftover: leftover() })
    }

    /// The existing owner, if there is one.
    fn living(&self, id: &str) -> Option<Owner> {
        if let Some(pod) = PodId::parse(id).ok().filter(|pod| self.service.table.get(pod).is_some()) {
            return Some(Owner::Pod(pod));
        }
        let is_recovered = |pod: &PodId| {
            self.service.recovering.lock().unwrap_or_else(PoisonError::into_inner).contains(pod)
        };
        if PodId::parse(id).is_ok_and(|pod| is_recovered(&pod)) {
            return Some(Owner::Server("a pod that is being recovered".to_owned()));
        }
        // The disk may refuse to read it now.
        if PodId::parse(id).is_ok_and(|pod| self.service.layout.record(&pod).try_exists().unwrap_or(true)) {
            return Some(Owner::Server("a pod whose record is not read yet".to_owned()));
        }
        if let Some(container) = ContainerId::parse(id).ok().filter(|id| self.known.containers.contains(id)) {
            return Some(Owner::Container(container));
        }
        let is_under_way = self.known.under_way.contains(id);
        is_under_way.then(|| Owner::Server("an operation that is under way".to_owned()))
    }

    /// The known id that fulfils the condition; ids of existing pods are tried first.
    fn whole_id(&self, is_it: impl Fn(&str) -> bool) -> Option<String> {
        let pods = self.service.table.list();
        let of_pods = pods.iter().map(|pod| pod.id.as_str());
        let past = self.known.past.iter().chain(&self.known.under_way).map(String::as_str);
        of_pods.chain(past).find(|id| is_it(id)).map(str::to_owned)
    }
}

/// The last of the ids in a path, or in the name of a scope such as `crisp-<id>.scope`.
fn last_id(path: &str) -> Option<&str> {
    path.rsplit(['/', '-', '.']).find(|part| PodId::parse(part).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_paths_and_in_names_of_scopes() {
        let (pod, container) = (PodId::random(), ContainerId::random());
        for (path, id) in [
            (format!("/crisp/{pod}"), Some(pod.as_str())),
            (format!("/crisp/{pod}/{container}"), Some(container.as_str())),
            (format!("/crisp/{pod}/{container}/made-by-it"), Some(container.as_str())),
            (format!("/crisp.slice/crisp-{pod}.scope"), Some(pod.as_str())),
            (format!("/kubepods/pod7/{pod}"), Some(pod.as_str())),
            ("/user.slice/user-0.slice".to_owned(), None),
        ] {
            assert_eq!(last_id(&path), id, "{path}");
        }
    }
}
