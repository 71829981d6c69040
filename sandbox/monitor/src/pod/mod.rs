//! The pod of a monitor: its namespaces, its init, its exit records.

mod left_host;
mod namespaces;
mod record;

use crisp_executor::plan::Process;
use crisp_executor::run::pod_init::PodInit;
use crisp_executor::run::procfs::makes_those_of_others;
use crisp_executor::run::{PodContext, pod_init, pod_root, sysctl};
use crisp_executor::user_namespace::UserNamespace;
use crisp_monitor::wire::Failure;
use crisp_monitor::wire::request::OpenPod;
use crisp_monitor::wire::response::PodNetwork;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

pub(crate) use left_host::LeftHost;

/// ```text
///  Fresh --open--> Open
///    +--open failed--> Failed
/// ```
pub(crate) enum Pod {
    /// A copy of a fork server has left the host's mounts already.
    Fresh(Option<LeftHost>),
    Open(Open),
    /// A part of the namespaces exists and cannot be removed.
    Failed,
}

pub(crate) struct Open {
    exits: OwnedFd,
    /// The network namespace, when it is not the host's.
    netns: Option<OwnedFd>,
    init: Option<PodInit>,
    /// The user namespace, when the pod has its own.
    user: Option<UserNamespace>,
    /// The host's /proc, for processes that join a container: as a folder, with nothing open in it.
    proc: Option<OwnedFd>,
    /// Whether the host's root is still mounted.
    host_mounted: bool,
    /// See [`PodContext::may_be_traced`].
    may_be_traced: bool,
    /// See [`HoldPorts`](crisp_monitor::wire::request::HoldPorts).
    host_ports: Vec<OwnedFd>,
}

fn failed(action: &str) -> impl Fn(Errno) -> Failure + '_ {
    move |errno| Failure::System { action: action.to_owned(), errno: errno.raw_os_error() }
}

impl Pod {
    pub(crate) fn open(&mut self, request: OpenPod) -> Result<(), Failure> {
        match self {
            Self::Fresh(_) => {}
            Self::Open(_) => return Err(Failure::AlreadyOpen),
            Self::Failed => return Err(Failure::OpenFailed),
        }
        for (name, value) in &request.sysctls {
            // Checked before anything is made: a typing error must not make the monitor useless.
            sysctl::check(name, value)?;
        }
        let Self::Fresh(left) = std::mem::replace(self, Self::Failed) else {
            return Err(Failure::OpenFailed);
        };
        *self = Self::Open(open(request, left)?);
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self, Self::Fresh(_))
    }

    pub(crate) fn must_be_open(&self) -> Result<(), Failure> {
        match self {
            Self::Open(_) => Ok(()),
            Self::Fresh(_) => Err(Failure::NotOpen),
            Self::Failed => Err(Failure::OpenFailed),
        }
    }

    /// A new netlink socket in the pod's network, and the network namespace.
    pub(crate) fn network(&self) -> Result<PodNetwork, Failure> {
        self.must_be_open()?;
        match self {
            Self::Open(Open { netns: Some(netns), .. }) => {
                let netlink = namespaces::netlink().map_err(failed("open a netlink socket"))?;
                let netns = rustix::io::fcntl_dupfd_cloexec(netns, 3);
                Ok(PodNetwork { netlink, netns: netns.map_err(failed("copy the network's descriptor"))? })
            }
            _ => Err(Failure::NoNetwork),
        }
    }

    /// The sockets that hold its host ports.
    pub(crate) fn host_ports(&mut self) -> Result<&mut Vec<OwnedFd>, Failure> {
        self.must_be_open()?;
        match self {
            Self::Open(open) => Ok(&mut open.host_ports),
            Self::Fresh(_) | Self::Failed => Err(Failure::NotOpen),
        }
    }

    /// The host's /proc, when the pod is open and it is known.
    pub(crate) fn host_proc(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Open(open) => open.proc.as_ref().map(AsFd::as_fd),
            Self::Fresh(_) | Self::Failed => None,
        }
    }

    fn pod_init(&self) -> Option<&PodInit> {
        match self {
            Self::Open(open) => open.init.as_ref(),
            Self::Fresh(_) | Self::Failed => None,
        }
    }

    pub(crate) fn init(&self) -> Option<BorrowedFd<'_>> {
        self.pod_init().map(|init| init.pidfd.as_fd())
    }

    /// The parts that its containers get from it.
    pub(crate) fn context(&self) -> PodContext<'_> {
        match self {
            Self::Open(open) => PodContext {
                init: self.init(),
                user: open.user.as_ref(),
                proc: self.host_proc(),
                may_be_traced: open.may_be_traced,
                copies_proc: !makes_those_of_others(),
            },
            Self::Fresh(_) | Self::Failed => PodContext::default(),
        }
    }

    /// Notes that the process is about to be started.
    pub(crate) fn note_rights(&mut self, process: &Process) {
        if let Self::Open(open) = self {
            open.may_be_traced |= process.may_trace();
        }
    }

    pub(crate) fn init_pid(&self) -> Option<i32> {
        self.pod_init().map(|init| init.pid)
    }

    /// Returns whether that was the pod's init.
    pub(crate) fn init_ended(&mut self, pid: i32) -> bool {
        let was_it = self.init_pid() == Some(pid);
        if was_it && let Self::Open(open) = self {
            open.init = None;
        }
        was_it
    }

    /// Unmounts the host's root, which the pod has left. If that fails, the pod starts no container.
    pub(crate) fn leave_host(&mut self) {
        let Self::Open(open) = self else { return };
        if std::mem::take(&mut open.host_mounted) && pod_root::leave_host().is_err() {
            *self = Self::Failed;
        }
    }

    pub(crate) fn end_init(&self) {
        if let Some(init) = self.init() {
            let _ = pidfd_send_signal(init, Signal::KILL);
        }
    }
}

/// The order matters: steps that need the host's root come before the pod has its own, and steps inside a
/// namespace come after it is made.
fn open(request: OpenPod, left: Option<LeftHost>) -> Result<Open, Failure> {
    join_cgroup(request.cgroup_v2.as_ref(), &request.cgroup_v1_tasks)?;
    let left = match left {
        // Inside a user namespace, making it requires the host's /proc to be visible.
        Some(left) if !request.ipc || request.user.is_some() => {
            left.go_back()?;
            None
        }
        left => left,
    };
    let host_mounted = left.is_none();
    let (proc, network) =
        left.map_or_else(|| (namespaces::host_proc(), None), |left| (left.proc, left.network));
    let settings = || name_and_settings(&request, proc.as_ref());
    let user = match &request.user {
        None => {
            namespaces::unshare(&request, network.as_ref())?;
            settings()?;
            None
        }
        Some(mappings) => Some(namespaces::unshare_inside(mappings, &request, settings)?),
    };
    let netns = match request.joined_network {
        Some(network) => Some(network),
        None if request.network => Some(namespaces::own_network(proc.as_ref())?),
        None => None,
    };
    let host_shm = if request.ipc { None } else { namespaces::host_shm() };
    if host_mounted {
        pod_root::enter(user.as_ref()).map_err(Failure::Stage)?;
    }
    pod_root::add_own(request.shm_bytes, user.as_ref()).map_err(Failure::Stage)?;
    if let Some(shm) = host_shm {
        namespaces::attach_shm(&shm)?;
    }
    let start = || match &user {
        None if !makes_those_of_others() => pod_init::start_with_proc(),
        user => pod_init::start(user.as_ref()),
    };
    let init = if request.shared_pid { Some(start().map_err(Failure::Stage)?) } else { None };
    let OpenPod { exits, host_ports, .. } = request;
    Ok(Open { exits, netns, init, user, proc, host_mounted, may_be_traced: false, host_ports })
}

/// Sets name and sysctls in the caller's namespaces. `proc` is the host's.
fn name_and_settings(request: &OpenPod, proc: Option<&OwnedFd>) -> Result<(), Failure> {
    if let Some(hostname) = &request.hostname {
        rustix::system::sethostname(hostname.as_bytes()).map_err(failed("set the host name"))?;
    }
    Ok(sysctl::apply(&request.sysctls, proc)?)
}

/// Moves the monitor into the pod's cgroup. On v1 through `tasks`: for a thread that moves itself the kernel
/// then skips the global lock that `cgroup.procs` takes, and the monitor has only one thread.
fn join_cgroup(v2: Option<&OwnedFd>, v1_tasks: &[OwnedFd]) -> Result<(), Failure> {
    for tasks in v1_tasks {
        rustix::io::write(tasks, b"0").map_err(failed("join a v1 cgroup"))?;
    }
    let Some(v2) = v2 else { return Ok(()) };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let procs = openat(v2, c"cgroup.procs", flags, Mode::empty());
    let procs = procs.map_err(failed("open cgroup.procs of the pod"))?;
    rustix::io::write(&procs, b"0").map_err(failed("join the v2 cgroup"))?;
    Ok(())
}
