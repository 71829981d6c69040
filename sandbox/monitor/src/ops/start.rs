//! Starts a container's first process.

use crisp_executor::plan::{FdIndex, PidNamespace};
use crisp_executor::run::{self, Stdio};
use crisp_monitor::wire::Failure;
use crisp_monitor::wire::request::{StartRequest, WindowSize};
use crisp_monitor::wire::response::Started;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::system;
use crate::child::Child;
use crate::clock;
use crate::container::{Container, Output, Phase, Terminal};
use crate::held::Held;
use crate::launch::{Launch, Requester};
use crate::log::Log;
use crate::monitor::{Call, Monitor, Reply, outputs};
use crate::poller::{Key, Token};

/// The container's ends of its standard streams, and the monitor's.
struct Streams {
    theirs: Stdio,
    stdin: Option<OwnedFd>,
    outputs: [Option<Output>; 2],
}

impl Monitor {
    pub(super) fn start(&mut self, call: Call) -> Result<Reply, Failure> {
        let requester = call.requester;
        let mut request: StartRequest = call.read()?;
        // Containers must not inherit the monitor's own score.
        request.plan.process.oom_score_adj.get_or_insert(0);
        self.start_or_hold(requester, request)?;
        Ok(Reply::Later)
    }

    pub(crate) fn start_or_hold(
        &mut self,
        requester: Requester,
        request: StartRequest,
    ) -> Result<(), Failure> {
        self.pod.must_be_open()?;
        if self.ending.has_begun() {
            return Err(Failure::ShuttingDown);
        }
        if self.find(&request.container).is_ok() {
            return Err(Failure::ContainerExists { container: request.container.to_string() });
        }
        let joins = matches!(request.plan.pid, PidNamespace::Pod | PidNamespace::Target(_));
        if joins && self.must_wait(&request.plan.process) {
            self.hold(requester, Held::Start(Box::new(request)));
            return Ok(());
        }
        self.launch_container(requester, request, joins)
    }

    /// `joins`: the PID namespace of others.
    fn launch_container(
        &mut self,
        requester: Requester,
        request: StartRequest,
        joins: bool,
    ) -> Result<(), Failure> {
        let StartRequest { container: id, plan, log, fds, stdin, stdin_once, size } = request;
        let streams = Streams::new(plan.process.terminal, stdin).map_err(system("make pipes"))?;
        let stdio = Stdio { size: size.map(WindowSize::pair), ..streams.theirs };
        self.pod.note_rights(&plan.process);
        let context = self.pod.context();
        let starting = run::start(&id, &plan, &fds, stdio, &context).map_err(Failure::Stage)?;
        let is_exposed = joins && starting.helper.is_none() && context.user.is_none();
        let key = self.new_key();
        let _ = self.poller.add(&starting.report, Token::Launch(key));
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        let mut keep = |index: Option<FdIndex>| fds.get_mut(usize::from(index?.0))?.take();
        let launch = Launch::new(starting.report, requester, plan.process.terminal, is_exposed);
        let container = Container {
            id,
            process: Child::new(starting.pid, starting.pidfd, starting.helper),
            phase: Phase::Starting(launch),
            started_at_ns: clock::now_ns(),
            terminal: None,
            stdin: streams.stdin,
            keep_stdin: stdin,
            stdin_once,
            outputs: streams.outputs,
            log: Log::new(log),
            cgroup: keep(plan.cgroup.v2),
            oom_events: keep(plan.cgroup.oom_events),
        };
        self.containers.insert(key, container);
        Ok(())
    }

    /// Handles its exec.
    pub(crate) fn container_runs(&mut self, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Phase::Starting(launch) = std::mem::replace(&mut container.phase, Phase::Running) else { return };
        container.started_at_ns = clock::now_ns();
        if let Some(master) = launch.reported.terminal {
            let _ = rustix::io::ioctl_fionbio(&master, true);
            let copy = |master| rustix::io::fcntl_dupfd_cloexec(master, 3).ok();
            container.stdin = if container.keep_stdin { copy(&master) } else { None };
            container.outputs[0] = copy(&master).map(Output::new);
            container.terminal = Some(Terminal::new(master));
        }
        let started = Started {
            pid: container.process.pid(),
            started_at_ns: container.started_at_ns,
            notes: launch.reported.notes,
            terminal: None,
            ended: None,
        };
        // What the server waits for comes first.
        self.respond(launch.requester, started);
        self.poller.remove(&launch.report);
        if let Some(container) = self.containers.get_mut(&key) {
            outputs::watch(&self.poller, key, container);
        }
    }
}

impl Streams {
    fn new(terminal: bool, stdin: bool) -> Result<Self, Errno> {
        let none = Self { theirs: Stdio::default(), stdin: None, outputs: [None, None] };
        if terminal {
            return Ok(none);
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let input = if stdin { Some(pipe()?) } else { None };
        let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
        // Only the monitor's ends: a container does not expect non-blocking ones.
        rustix::io::ioctl_fionbio(&stdout, true)?;
        rustix::io::ioctl_fionbio(&stderr, true)?;
        let (theirs, ours) = input.map_or((None, None), |(theirs, ours)| (Some(theirs), Some(ours)));
        Ok(Self {
            theirs: Stdio { stdin: theirs, stdout: Some(out), stderr: Some(err), ..Stdio::default() },
            stdin: ours,
            outputs: [Some(Output::new(stdout)), Some(Output::new(stderr))],
        })
    }
}
