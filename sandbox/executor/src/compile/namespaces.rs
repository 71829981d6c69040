//! `linux.namespaces`. A container's mount namespace is always its own; network, IPC, UTS and user are the
//! pod's or the host's, which the monitor already has; PID is one of four.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::field::{invalid, unsupported};
use super::{CompileError, Descriptors};
use crate::plan::{FdIndex, PidNamespace};

/// The namespaces in the spec, as far as a container decides about them.
pub(super) struct Namespaces {
    pub pid: PidNamespace<FdIndex>,
    pub cgroup: bool,
    pub user: bool,
}

pub(super) fn namespaces(
    given: &[LinuxNamespace],
    pid: PidNamespace<OwnedFd>,
    standalone: bool,
    fds: &mut Descriptors,
) -> Result<Namespaces, CompileError> {
    let mut seen = HashSet::new();
    let mut listed_pid = Listed::No;
    let (mut mount, mut cgroup, mut user) = (false, false, false);
    for (index, namespace) in given.iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        let typ = namespace.typ();
        if !seen.insert(typ) {
            return Err(invalid(field, format!("{typ} is listed twice")));
        }
        let joined = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        match (typ, joined) {
            (LinuxNamespaceType::Mount, false) => mount = true,
            (LinuxNamespaceType::Cgroup, false) => cgroup = true,
            (LinuxNamespaceType::Mount | LinuxNamespaceType::Cgroup, true) => {
                return Err(unsupported(field, &format!("joining a {typ} namespace")));
            }
            (LinuxNamespaceType::Network | LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts, joined)
                if joined || standalone => {}
            (LinuxNamespaceType::Network | LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts, _) => {
                let reason =
                    format!("a container has no {typ} namespace of its own; give the path of the pod's");
                return Err(invalid(field, reason));
            }
            (LinuxNamespaceType::Pid, joined) => {
                listed_pid = if joined { Listed::Joined } else { Listed::New }
            }
            (LinuxNamespaceType::User, false) => user = true,
            (LinuxNamespaceType::User, true) => {
                return Err(unsupported(field, "a path: the pod's user namespace is given without one"));
            }
            (LinuxNamespaceType::Time, _) => return Err(unsupported(field, "time namespaces")),
        }
    }
    if !mount {
        return Err(invalid("linux.namespaces", "mount is missing: every container has its own"));
    }
    if user && (listed_pid == Listed::No || !cgroup) {
        // Neither file system can be mounted by the root of another user namespace.
        let reason =
            "with a user namespace, pid and cgroup must be listed as well: the host's cannot be used";
        return Err(invalid("linux.namespaces", reason));
    }
    Ok(Namespaces { pid: pid_namespace(&listed_pid, pid, fds)?, cgroup, user })
}

#[derive(Debug, PartialEq, Eq)]
enum Listed {
    No,
    New,
    Joined,
}

fn pid_namespace(
    listed: &Listed,
    pid: PidNamespace<OwnedFd>,
    fds: &mut Descriptors,
) -> Result<PidNamespace<FdIndex>, CompileError> {
    let (expected, what) = match &pid {
        PidNamespace::Own => (Listed::New, "its own"),
        PidNamespace::Host => (Listed::No, "the host's"),
        PidNamespace::Pod => (Listed::Joined, "the pod's"),
        PidNamespace::Target(_) => (Listed::Joined, "another container's"),
    };
    if *listed != expected {
        let reason = format!("pid: the spec has {listed:?}, but the container is to live in {what}");
        return Err(invalid("linux.namespaces", reason));
    }
    pid.try_map(|target| fds.add(target))
}
