//! Containers without a monitor, for callers that end before the container does: `runc` and its like.
//!
//! ```text
//!  caller                 helper, a copy of the caller             child
//!  create --clone3-->     joins or makes network, IPC, UTS
//!                         leaves the host's root
//!                         start --clone3------------------->  all of its setup
//!    ^                      |                                     |
//!    +-- pid, pidfd, report +  ends: the child's parent is the    |
//!    |                         next subreaper above from then on  |
//!    +-- Terminal, Prepared, Waiting (at the start gate), Failed -+
//! ```
//!
//! The caller stays in the host's namespaces. It has one thread, as the callers of all of `run` have.
//!
//! When the child comes from a helper of its own, as it would be seen by other processes ([`unseen`](super::unseen)),
//! [`create`] has two responses: the pid of that one, and then that of the child.
//!
//! Cast: [`create`] and [`exec`] make processes, [`Namespaces`] describes their namespaces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::system::{setdomainname, sethostname};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use super::error::{At, Stage, StageError};
use super::inside::Inside;
use super::relay::{self, Kind, Packet, Relay};
use super::report::{Report, cut};
use super::spawn::Stop;
use super::unseen::{self, Helper};
use super::{PodContext, Starting, Stdio, pod_root, procfs, start_with_gate, sysctl};
use crate::ids::ContainerId;
use crate::plan::{CgroupJoin, Plan, Process};
use crate::sys::{self, Cloned};
use crate::user_namespace::UserNamespace;

/// The source of one kind of namespace.
#[derive(Debug, Default)]
pub enum Namespace {
    /// The caller's, which usually is the host's.
    #[default]
    Caller,
    New,
    /// The namespace of the descriptor.
    Existing(OwnedFd),
}

/// The namespaces of a container in addition to those in its plan, and their settings.
#[derive(Debug, Default)]
pub struct Namespaces {
    pub network: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    pub user: Option<UserNamespace>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Names and values.
    pub sysctls: Vec<(String, String)>,
}

/// Not used here: no container gets a pod's shared memory.
const SHM_BYTES: u64 = 64 << 10;
/// Starts the first process of the container `id`, which waits at `gate`, if there is one.
///
/// # Errors
/// A stage failed before there was a process; later failures arrive in the [`Report`].
pub fn create(
    id: &ContainerId,
    plan: &Plan,
    fds: &[OwnedFd],
    stdio: Stdio,
    namespaces: &Namespaces,
    gate: Option<BorrowedFd<'_>>,
) -> Result<Starting, StageError> {
    by_helper(|| {
        let proc = host_proc();
        namespaces.enter(proc.as_ref())?;
        pod_root::enter(namespaces.user.as_ref())?;
        pod_root::add_own(SHM_BYTES, namespaces.user.as_ref())?;
        pod_root::leave_host()?;
        let context = context(proc.as_ref(), namespaces.user.as_ref());
        start_with_gate(id, plan, fds, stdio, &context, gate)
    })
}

/// Starts an additional process in the container `id`, whose first process is `init`. `user` is the
/// container's user namespace.
///
/// # Errors
/// As for [`create`]. It waits for the process.
pub fn exec(
    id: &ContainerId,
    process: &Process,
    cgroup: &CgroupJoin,
    fds: &[OwnedFd],
    stdio: Stdio,
    init: BorrowedFd<'_>,
    user: Option<&UserNamespace>,
) -> Result<Starting, StageError> {
    by_helper(|| {
        let proc = host_proc();
        let of_init = ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
        move_into_thread_name_spaces(init, of_init)
            .at(Stage::JoinNamespaces, "of the container, is it still running")?;
        sys::unshare_namespaces(libc::CLONE_NEWNS).at(Stage::PodRoot, "make a mount namespace")?;
        // The null device, for a process with a terminal.
        pod_root::enter(None)?;
        pod_root::add_own(SHM_BYTES, None)?;
        pod_root::leave_host()?;
        super::exec(id, process, cgroup, fds, stdio, init, &context(proc.as_ref(), user))?.wait_for_process()
    })
}

fn context<'a>(proc: Option<&'a OwnedFd>, user: Option<&'a UserNamespace>) -> PodContext<'a> {
    // There is no record of what other commands may do.
    let copies_proc = !procfs::makes_those_of_others();
    PodContext { init: None, user, proc: proc.map(AsFd::as_fd), may_be_traced: true, copies_proc }
}

fn host_proc() -> Option<OwnedFd> {
    open(c"/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

impl Namespaces {
    /// Joins existing namespaces and makes new ones, and a mount namespace.
    fn enter(&self, proc: Option<&OwnedFd>) -> Result<(), StageError> {
        self.join()?;
        let new = self.new_ones();
        match &self.user {
            None => {
                sys::unshare_namespaces(new | libc::CLONE_NEWNS)
                    .at(Stage::JoinNamespaces, "make new ones")?;
                self.set(proc)
            }
            Some(user) => {
                let make = || {
                    sys::unshare_namespaces(new).at(Stage::JoinNamespaces, "make new ones")?;
                    self.set(proc)
                };
                let inside = Inside::run(user, make)??;
                sys::unshare_namespaces(libc::CLONE_NEWNS).at(Stage::JoinNamespaces, "make a mount one")?;
                let made = ThreadNameSpaceType::from_bits_retain(new.cast_unsigned());
                if made.is_empty() {
                    return Ok(());
                }
                move_into_thread_name_spaces(inside.as_fd(), made).at(Stage::JoinNamespaces, "new ones")
            }
        }
    }

    fn join(&self) -> Result<(), StageError> {
        let all = [
            (&self.network, LinkNameSpaceType::Network, "network"),
            (&self.ipc, LinkNameSpaceType::InterProcessCommunication, "ipc"),
            (&self.uts, LinkNameSpaceType::HostNameAndNISDomainName, "uts"),
        ];
        for (namespace, kind, name) in all {
            if let Namespace::Existing(fd) = namespace {
                move_into_link_name_space(fd.as_fd(), Some(kind)).at(Stage::JoinNamespaces, name)?;
            }
        }
        Ok(())
    }

    fn new_ones(&self) -> i32 {
        let all = [
            (&self.network, libc::CLONE_NEWNET),
            (&self.ipc, libc::CLONE_NEWIPC),
            (&self.uts, libc::CLONE_NEWUTS),
        ];
        all.iter()
            .filter(|(namespace, _)| matches!(namespace, Namespace::New))
            .fold(0, |set, (_, one)| set | one)
    }

    fn set(&self, proc: Option<&OwnedFd>) -> Result<(), StageError> {
        if let Some(name) = &self.hostname {
            sethostname(name.as_bytes()).at(Stage::Hostname, format_args!("{name:?}"))?;
        }
        if let Some(name) = &self.domainname {
            setdomainname(name.as_bytes()).at(Stage::Hostname, format_args!("{name:?} of the domain"))?;
        }
        sysctl::apply(&self.sysctls, proc)
            .map_err(|error| StageError::explained(Stage::JoinNamespaces, Errno::INVAL, error.to_string()))
    }
}

/// Runs `start` in a copy of this process, which changes its namespaces and root, and then ends.
fn by_helper(start: impl FnOnce() -> Result<Starting, StageError>) -> Result<Starting, StageError> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .at(Stage::Clone, "make a socket")?;
    match sys::clone3(0, None).at(Stage::Clone, "process")? {
        Cloned::Child => {
            let _stop = Stop;
            drop(ours);
            respond(&theirs, start());
            sys::exit(0)
        }
        Cloned::Parent { pidfd, .. } => {
            drop(theirs);
            let relay = Relay { socket: ours, sender: pidfd };
            let received = relay.receive().inspect_err(|_| relay.reap_sender())?;
            let helper = match received.kind {
                Kind::Process => {
                    relay.reap_sender();
                    None
                }
                Kind::Helper => Some(Helper::elsewhere(relay)),
            };
            let report =
                Report::from(received.report.ok_or(Errno::MFILE).at(Stage::Clone, "receive the process")?);
            Ok(Starting { helper, pid: received.pid, pidfd: received.pidfd, report })
        }
    }
}

/// If the caller is gone, its process continues: it is in its cgroup, where it can be found.
fn respond(socket: &OwnedFd, started: Result<Starting, StageError>) {
    let Starting { pid, pidfd, report, helper } = match started {
        Ok(starting) => starting,
        Err(error) => return relay::send(socket, &Packet::Failed(cut(error)), &[]),
    };
    let fds = [pidfd.as_fd(), report.as_fd()];
    let Some(helper) = helper else { return relay::send(socket, &Packet::Started(pid), &fds) };
    relay::send(socket, &Packet::Helper(pid), &fds);
    // From here on the caller has it, and hears from it why it failed: a copy that is kept here would hide the
    // caller's end from the helper.
    drop(report);
    match unseen::process_of(helper, &pidfd) {
        Ok((pid, pidfd)) => relay::send(socket, &Packet::Started(pid), &[pidfd.as_fd()]),
        Err(error) => relay::send(socket, &Packet::Failed(error), &[]),
    }
}
