//! A further process in a container.

use crisp_executor::run::{self, Stdio};
use crisp_monitor::wire::request::ExecPlan;
use crisp_monitor::wire::response::Started;
use crisp_monitor::wire::{Failure, request};

use super::read_whole;
use crate::clock;
use crate::container::Phase;
use crate::exec::Exec;
use crate::launch::Launch;
use crate::monitor::{Answer, Call, Monitor, Reply, parse};
use crate::poller::{Key, Token};

impl Monitor {
    pub(super) fn exec(&mut self, call: Call) -> Result<Answer, Failure> {
        let Some(requester) = call.requester() else { return Ok(Answer::Later) };
        let (request, mut fds): (request::Exec, _) = call.take()?;
        let plan = fds.next("the plan")?;
        let stdio = Stdio {
            stdin: fds.next_if(request.stdin, "stdin")?,
            stdout: fds.next_if(request.stdout, "stdout")?,
            stderr: fds.next_if(request.stderr, "stderr")?,
        };
        let fds = fds.rest();
        let same = |exec: &&Exec| exec.connection == requester.connection && exec.id == request.exec;
        if self.execs.values().any(|exec| same(&exec)) {
            return Err(Failure::ExecExists { exec: request.exec });
        }
        if self.ending.has_begun() {
            return Err(Failure::ShuttingDown);
        }
        let ExecPlan { mut process, cgroup } = parse(&read_whole(&plan)?)?;
        process.oom_score_adj.get_or_insert(0);
        let (_, container) = self.find(&request.container)?;
        if !matches!(container.phase, Phase::Running) {
            return Err(Failure::NotRunning { container: request.container.to_string() });
        }
        let starting = run::exec(
            &request.container,
            &process,
            &cgroup,
            &fds,
            stdio,
            rustix::fd::AsFd::as_fd(&container.pidfd),
        )
        .map_err(Failure::Stage)?;
        let key = self.new_key();
        let _ = self.poller.add(&starting.report, Token::Launch(key));
        let exec = Exec {
            id: request.exec,
            connection: requester.connection,
            container: request.container,
            pid: starting.pid,
            pidfd: starting.pidfd,
            launch: Some(Launch::new(starting.report, requester, request.size)),
        };
        self.execs.insert(key, exec);
        Ok(Answer::Later)
    }

    /// It has exec'd.
    pub(crate) fn exec_runs(&mut self, key: Key) {
        let Some(exec) = self.execs.get_mut(&key) else { return };
        let Some(launch) = exec.launch.take() else { return };
        self.poller.remove(&launch.report);
        let started = Started { pid: exec.pid, started_at_ns: clock::now_ns(), notes: launch.notes };
        match Reply::new(&started, launch.terminal.into_iter().collect()) {
            Ok(reply) => self.reply(launch.requester, reply),
            Err(failure) => self.refuse(launch.requester, failure),
        }
    }
}
