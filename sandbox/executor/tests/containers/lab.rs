//! A pod with one container, as small as it gets: what a monitor does around the executor.

use std::cell::RefCell;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crisp_executor::ids::ContainerId;
use crisp_executor::plan::{CgroupJoin, Plan, Process};
use crisp_executor::run::{self, PodContext, Progress, Report, StageError, Starting, Stdio};
use crisp_executor::user_namespace::{IdMappings, UserNamespace};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use crate::plans::{self, c};

const APPLETS: &[&str] = &[
    "sh", "cat", "id", "ls", "stat", "mount", "grep", "echo", "true", "sleep", "pwd", "tty", "env", "dd",
    "touch", "mkdir", "readlink", "wc", "head", "chmod", "df", "kill", "ps", "umount", "test", "sed",
    "chown", "mknod", "mv",
];

/// How a process ended, and all that it printed.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
    pub notes: Vec<StageError>,
    pub failed: Option<StageError>,
}

impl Outcome {
    /// Its output, when it succeeded.
    #[track_caller]
    pub fn good(&self) -> &str {
        assert!(self.failed.is_none() && self.code == 0, "{self:#?}");
        self.out.trim_end()
    }

    #[track_caller]
    pub fn error(&self) -> String {
        self.failed.as_ref().unwrap_or_else(|| panic!("started all the same: {self:#?}")).to_string()
    }
}

/// The container's files before the pod's root is entered.
pub struct Files(PathBuf);

impl Files {
    /// An image of busybox and nothing else.
    pub fn busybox() -> Self {
        let files = Self::empty();
        std::fs::create_dir(files.path("bin")).unwrap();
        std::fs::copy("/bin/busybox", files.path("bin/busybox")).unwrap();
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", files.path("bin").join(applet)).unwrap();
        }
        files
    }

    /// An image without anything.
    pub fn empty() -> Self {
        let folder = std::env::var_os("CRISP_TEST_FOLDER").expect("to be run by the harness");
        let root = Path::new(&folder).join("root");
        std::fs::create_dir(&root).unwrap();
        Self(root)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        std::fs::write(self.path(path), content).unwrap();
        self
    }

    pub fn folder(&self, path: &str) -> &Self {
        std::fs::create_dir_all(self.path(path)).unwrap();
        self
    }

    pub fn link(&self, target: &str, path: &str) -> &Self {
        std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
        self
    }

    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// A folder beside the root, to be mounted.
    pub fn volume(&self, name: &str) -> PathBuf {
        let path = self.0.parent().unwrap().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// A detached mount of the root: what the server would pass.
    pub fn detached(&self) -> OwnedFd {
        detached(&self.0)
    }

    /// The root as the lower layer of an overlay of its own.
    pub fn overlay(&self, number: usize) -> OwnedFd {
        let (upper, work) = (self.volume(&format!("upper-{number}")), self.volume(&format!("work-{number}")));
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for (key, path) in [("lowerdir", &self.0), ("upperdir", &upper), ("workdir", &work)] {
            fsconfig_set_string(&context, key, path).unwrap();
        }
        fsconfig_create(&context).unwrap();
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
    }

    /// Enters the pod's root with only the image's root as a descriptor.
    pub fn pod(&self) -> Pod {
        Pod::enter(|| vec![self.detached()])
    }
}

pub fn detached(path: &Path) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(rustix::fs::CWD, path, flags).unwrap()
}

/// A process that is a pod's monitor from here on: no host path is left to it.
pub struct Pod {
    /// One set per start: what was attached once is gone with its container.
    sets: RefCell<Vec<Vec<OwnedFd>>>,
    pub plan: Plan,
    pub id: ContainerId,
    /// The host's /proc, for processes that join.
    proc: OwnedFd,
    user: Option<UserNamespace>,
    pub may_be_traced: bool,
    pub copies_proc: bool,
}

/// As many containers as a test may start.
const STARTS: usize = 40;

const NAMESPACES: UnshareFlags = UnshareFlags::NEWIPC.union(UnshareFlags::NEWUTS).union(UnshareFlags::NEWNET);

fn unshare(namespaces: UnshareFlags) -> Result<(), rustix::io::Errno> {
    #[allow(deprecated, reason = "its only danger is CLONE_FILES")]
    rustix::thread::unshare(namespaces)
}

impl Pod {
    /// `fds` makes the descriptors of one start, the root first.
    pub fn enter(fds: impl Fn() -> Vec<OwnedFd>) -> Self {
        Self::enter_for(STARTS, fds)
    }

    /// With descriptors for `starts` containers.
    pub fn enter_for(starts: usize, fds: impl Fn() -> Vec<OwnedFd>) -> Self {
        let sets = RefCell::new((0..starts).map(|_| fds()).collect());
        let proc = std::fs::File::open("/proc").unwrap().into();
        unshare(NAMESPACES | UnshareFlags::NEWNS).unwrap();
        Self::leave_host(sets, proc, None)
    }

    /// A pod with a user namespace, to which its other namespaces belong.
    pub fn enter_inside(mappings: IdMappings, fds: impl Fn(&UserNamespace) -> Vec<OwnedFd>) -> Self {
        let user = UserNamespace::new(mappings).unwrap();
        let sets = RefCell::new((0..STARTS).map(|_| fds(&user)).collect());
        let proc = std::fs::File::open("/proc").unwrap().into();
        unshare(UnshareFlags::NEWNS).unwrap();
        let make = || unshare(NAMESPACES).map_err(|errno| errno.raw_os_error());
        let inside = run::inside::Inside::run(&user, make).unwrap().unwrap();
        let namespaces = ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::NETWORK;
        rustix::thread::move_into_thread_name_spaces(inside.as_fd(), namespaces).unwrap();
        drop(inside);
        Self::leave_host(sets, proc, Some(user))
    }

    fn leave_host(sets: RefCell<Vec<Vec<OwnedFd>>>, proc: OwnedFd, user: Option<UserNamespace>) -> Self {
        run::pod_root::enter(user.as_ref()).unwrap();
        run::pod_root::add_own(64 << 20, user.as_ref()).unwrap();
        run::pod_root::leave_host().unwrap();
        Self {
            sets,
            plan: plans::usual(),
            id: ContainerId::random(),
            proc,
            user,
            may_be_traced: false,
            copies_proc: false,
        }
    }

    pub fn context(&self) -> PodContext<'_> {
        PodContext {
            init: None,
            user: self.user.as_ref(),
            proc: Some(self.proc.as_fd()),
            may_be_traced: self.may_be_traced,
            copies_proc: self.copies_proc,
        }
    }

    /// The descriptors of the next start.
    pub fn fds(&self) -> Vec<OwnedFd> {
        self.sets.borrow_mut().pop().expect("fewer starts in one test")
    }

    /// Runs `args` to its end.
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.run_with(args, |_| {})
    }

    /// Runs a shell script to its end.
    pub fn sh(&self, script: &str) -> Outcome {
        self.run(&["/bin/sh", "-c", script])
    }

    /// Runs `args` with a changed plan.
    pub fn run_with(&self, args: &[&str], change: impl FnOnce(&mut Plan)) -> Outcome {
        let mut plan = self.plan.clone();
        plan.process.args = args.iter().map(|a| c(a)).collect();
        change(&mut plan);
        self.run_plan(&plan)
    }

    /// Runs the plan's own command to its end.
    #[cfg(feature = "compile")]
    pub fn run_as_planned(&self) -> Outcome {
        self.run_plan(&self.plan)
    }

    fn run_plan(&self, plan: &Plan) -> Outcome {
        self.run_in(plan, &self.context())
    }

    /// Runs the command of `plan` to its end, with what the pod in `context` lends.
    pub fn run_in(&self, plan: &Plan, context: &PodContext<'_>) -> Outcome {
        self.run_on(plan, context, &self.fds())
    }

    /// The same on these descriptors.
    pub fn run_on(&self, plan: &Plan, context: &PodContext<'_>, fds: &[OwnedFd]) -> Outcome {
        let (stdio, mut pipes) = pipes();
        let starting = run::start(&self.id, plan, fds, stdio, context);
        match starting.and_then(Starting::wait_for_process) {
            Ok(starting) => finish(&starting, &mut pipes),
            Err(error) => failed(error),
        }
    }

    /// Starts `args` and answers when it runs.
    pub fn started(&self, args: &[&str]) -> Running {
        self.started_with(args, |_| {})
    }

    /// Starts `args` with a changed plan and answers when it runs.
    pub fn started_with(&self, args: &[&str], change: impl FnOnce(&mut Plan)) -> Running {
        let mut plan = self.plan.clone();
        plan.process.args = args.iter().map(|a| c(a)).collect();
        change(&mut plan);
        let starting = run::start(&self.id, &plan, &self.fds(), Stdio::default(), &self.context());
        let starting = starting.and_then(Starting::wait_for_process).unwrap();
        let progress = watch(&starting.report);
        assert!(progress.failed.is_none(), "{progress:?}");
        Running(starting)
    }

    /// Runs `args` in the container of `init`.
    pub fn exec_with(&self, init: &Running, args: &[&str], change: impl FnOnce(&mut Process)) -> Outcome {
        self.exec_in(init, args, change, &CgroupJoin::default(), &[])
    }

    /// The same, moving into cgroups.
    pub fn exec_in(
        &self,
        init: &Running,
        args: &[&str],
        change: impl FnOnce(&mut Process),
        join: &CgroupJoin,
        fds: &[OwnedFd],
    ) -> Outcome {
        let mut process = self.plan.process.clone();
        process.args = args.iter().map(|a| c(a)).collect();
        change(&mut process);
        let (stdio, mut pipes) = pipes();
        let init = init.0.pidfd.as_fd();
        let starting = run::exec(&self.id, &process, join, fds, stdio, init, &self.context());
        match starting.and_then(Starting::wait_for_process) {
            Ok(starting) => finish(&starting, &mut pipes),
            Err(error) => failed(error),
        }
    }
}

/// A container that runs on; it ends with this.
pub struct Running(pub Starting);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0.pidfd, Signal::KILL);
        // Waited for, if that has not been done: its cgroup can be removed then.
        let _ = waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// All that came through a report.
#[derive(Debug, Default)]
pub struct Watched {
    pub notes: Vec<StageError>,
    pub failed: Option<StageError>,
    pub terminal: Option<OwnedFd>,
}

pub fn watch(report: &Report) -> Watched {
    let mut watched = Watched::default();
    loop {
        poll(&mut [PollFd::new(report, PollFlags::IN)], None).unwrap();
        match report.receive().unwrap() {
            Progress::Pending | Progress::Prepared => {}
            Progress::Notes(notes) => watched.notes.extend(notes),
            Progress::Terminal(master) => watched.terminal = Some(master),
            Progress::Failed(error) => watched.failed = Some(error),
            Progress::Waiting | Progress::Executed => return watched,
        }
    }
}

/// 0-255, or 128 + signal.
pub fn wait(starting: &Starting) -> i32 {
    let id = WaitId::PidFd(starting.pidfd.as_fd());
    let status = waitid(id, WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

fn finish(starting: &Starting, pipes: &mut [std::fs::File; 2]) -> Outcome {
    let Watched { notes, failed, .. } = watch(&starting.report);
    let mut texts = pipes.each_mut().map(|pipe| {
        let mut text = Vec::new();
        pipe.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    let [out, err] = texts.each_mut().map(std::mem::take);
    Outcome { code: wait(starting), out, err, notes, failed }
}

fn failed(error: StageError) -> Outcome {
    Outcome { code: -1, out: String::new(), err: String::new(), notes: Vec::new(), failed: Some(error) }
}

fn pipes() -> (Stdio, [std::fs::File; 2]) {
    let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (err, stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (Stdio { stdout: Some(stdout), stderr: Some(stderr), ..Stdio::default() }, [out.into(), err.into()])
}
