//! Starts an additional process in a container.

use std::time::{Duration, Instant};

use crisp_executor::run::{self, Stdio};
use crisp_monitor::wire::Failure;
use crisp_monitor::wire::request::{ExecRequest, WindowSize};
use crisp_monitor::wire::response::Started;

use crate::child::Child;
use crate::clock;
use crate::container::Phase;
use crate::exec::{Exec, Response};
use crate::held::Held;
use crate::launch::{Launch, Requester};
use crate::monitor::{Call, Monitor, Reply};
use crate::poller::{Key, Token};

/// Limit for delaying a response. Most probes have ended by then; output of others waits in its pipes. Until then
/// also the report of the exec is left unread: the end of the process reports the same, and a monitor that woke at the
/// exec would take the processor from it.
const LATE: Duration = Duration::from_millis(5);

impl Monitor {
    pub(super) fn exec(&mut self, call: Call) -> Result<Reply, Failure> {
        let requester = call.requester;
        let mut request: ExecRequest = call.read()?;
        request.process.oom_score_adj.get_or_insert(0);
        self.exec_or_hold(requester, request)?;
        Ok(Reply::Later)
    }

    pub(crate) fn exec_or_hold(&mut self, requester: Requester, request: ExecRequest) -> Result<(), Failure> {
        let same = |exec: &Exec| exec.connection == requester.connection && exec.id == request.exec_id;
        if self.execs.values().any(same) {
            return Err(Failure::ExecExists { exec: request.exec_id });
        }
        if self.ending.has_begun() {
            return Err(Failure::ShuttingDown);
        }
        if self.must_wait(&request.process) {
            self.hold(requester, Held::Exec(Box::new(request)));
            return Ok(());
        }
        self.launch_exec(requester, request)
    }

    fn launch_exec(&mut self, requester: Requester, request: ExecRequest) -> Result<(), Failure> {
        let ExecRequest {
            exec_id,
            container: id,
            process,
            cgroup,
            stdin,
            stdout,
            stderr,
            mut fds,
            size,
            grace_ms,
            late_response,
        } = request;
        let (key, _) = self.find(&id)?;
        let container = &self.containers[&key];
        if !matches!(container.phase, Phase::Running) {
            return Err(Failure::NotRunning { container: id.to_string() });
        }
        let stdio = Stdio { stdin, stdout, stderr, size: size.map(WindowSize::pair), preserved: 0 };
        let init = container.process.pidfd();
        let context = self.pod.context();
        let starting =
            run::exec(&id, &process, &cgroup, &fds, stdio, init, &context).map_err(Failure::Stage)?;
        let is_exposed = starting.helper.is_none() && context.user.is_none();
        let v2 = cgroup.v2.map(|index| usize::from(index.0)).filter(|index| *index < fds.len());
        let key = self.new_key();
        let late = (late_response && !process.terminal).then(|| Instant::now() + LATE);
        // The report of a helper is how its process becomes known.
        let mut read_at = late.filter(|_| starting.helper.is_none());
        if read_at.is_none() && self.poller.add(&starting.report, Token::Launch(key)).is_err() {
            read_at = Some(Instant::now() + LATE);
        }
        let has_terminal = process.terminal;
        let launch = Launch::new(starting.report, requester, has_terminal, is_exposed);
        let exec = Exec {
            id: exec_id,
            connection: requester.connection,
            container: id,
            process: Child::new(starting.pid, starting.pidfd, starting.helper),
            launch: Some(launch.unpolled_until(read_at)),
            grace: Duration::from_millis(grace_ms.into()),
            cgroup: v2.map(|index| fds.swap_remove(index)),
            has_terminal,
            has_hup: false,
            kill_at: None,
            response: Response::Due { late },
        };
        self.execs.insert(key, exec);
        Ok(())
    }

    /// Handles its exec.
    pub(crate) fn exec_runs(&mut self, key: Key) {
        let Some(exec) = self.execs.get_mut(&key) else { return };
        let Some(launch) = exec.launch.take() else { return };
        launch.stop_polling(&self.poller);
        let started = Started {
            pid: exec.process.pid(),
            started_at_ns: clock::now_ns(),
            notes: launch.reported.notes,
            terminal: launch.reported.terminal,
            ended: None,
        };
        if let Response::Due { late: Some(at) } = exec.response
            && at > Instant::now()
        {
            exec.response = Response::Late { to: launch.requester, started, at };
            return;
        }
        exec.response = Response::Sent;
        self.respond(launch.requester, started);
    }

    /// Reads a report that is not polled, and has it polled if there is more to come.
    pub(crate) fn read_unpolled_report(&mut self, key: Key) {
        if let Some(launch) = self.execs.get_mut(&key).and_then(|exec| exec.launch.as_mut()) {
            launch.poll(&self.poller, key);
            self.launch_progress(key);
        }
    }

    /// Sends the delayed response.
    pub(crate) fn respond_late(&mut self, key: Key) {
        let Some(exec) = self.execs.get_mut(&key) else { return };
        if let Some((to, started)) = exec.response.take_late() {
            self.respond(to, started);
        }
    }
}
