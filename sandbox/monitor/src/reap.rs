//! Handles ended children: containers, execs, the pod's init, and adopted orphans.

use std::time::Instant;

use crisp_executor::run::{Stage, StageError};
use crisp_monitor::wire::response::{Event, Started};
use crisp_monitor::wire::{ExitStatus, Failure};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, WaitStatus, wait};

use crate::clock;
use crate::container::{Container, Phase};
use crate::exec::Exec;
use crate::launch::Launched;
use crate::monitor::Monitor;
use crate::poller::Key;

impl Monitor {
    /// Reaps every child that has ended. This is the only place that waits: a status that is read elsewhere
    /// would be missing here.
    pub(crate) fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(status) = exit_status(status) {
                        self.child_ended(pid.as_raw_nonzero().get(), status);
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }

    fn child_ended(&mut self, pid: i32, status: ExitStatus) {
        let of_container = |(key, c): (&Key, &mut Container)| {
            Some((*key, c.is_alive().then(|| c.process.ended_with(pid, status)).flatten()?))
        };
        let of_exec = |(key, exec): (&Key, &mut Exec)| Some((*key, exec.process.ended_with(pid, status)?));
        if let Some((key, status)) = self.containers.iter_mut().find_map(of_container) {
            self.container_ended(key, status);
        } else if let Some((key, status)) = self.execs.iter_mut().find_map(of_exec) {
            self.exec_ended(key, status);
        } else if self.pod.init_ended(pid) {
            self.broadcast(&Event::InitExited { status });
        }
    }

    fn container_ended(&mut self, key: Key, status: ExitStatus) {
        // Reports from before its end may still be unread; they say whether it ever exec'd.
        self.launch_progress(key);
        let Some(container) = self.containers.get_mut(&key) else { return };
        if let Phase::Starting(launch) = &mut container.phase {
            let error = launch.failed.take();
            let requester = launch.requester;
            self.drop_container(key);
            self.refuse(requester, Failure::Stage(error.unwrap_or_else(killed)));
            return;
        }
        container.ended(status, clock::now_ns());
        for exec in self.execs.values_mut().filter(|exec| exec.container == container.id) {
            // Processes in its own PID namespace are dead already.
            exec.kill_group();
        }
        self.announce_if_done(key, Instant::now());
    }

    fn exec_ended(&mut self, key: Key, status: ExitStatus) {
        self.launch_progress(key);
        let late = self.execs.get_mut(&key).and_then(|exec| exec.response.take_late());
        let Some(mut exec) = self.execs.remove(&key) else { return };
        if let Some(launch) = exec.launch {
            launch.stop_polling(&self.poller);
            return self.refuse(launch.requester, Failure::Stage(launch.failed.unwrap_or_else(killed)));
        }
        let (connection, finished_at_ns) = (exec.connection, clock::now_ns());
        let (id, container) = (exec.id, exec.container.clone());
        // The end of a server may have ended the command: it ends its input, breaks its output and hangs up its
        // terminal. The output of a short probe that has succeeded did not break.
        let is_good_probe = late.is_some() && status == ExitStatus::Code(0);
        if !exec.has_hup && !is_good_probe && self.server_is_ending(connection) {
            exec.connection_ended(Instant::now());
        }
        // Closed before the event: a client that receives it finds nothing of the exec left here.
        self.leftovers.extend(exec.leftover());
        if let Some((to, started)) = late {
            return self.respond(to, Started { ended: Some(status), ..started });
        }
        let event = Event::ExecExited { exec: id, container, status, finished_at_ns };
        self.send_event(connection, &event);
    }

    fn server_is_ending(&self, connection: Key) -> bool {
        let proc = self.pod.host_proc();
        self.connections.get(&connection).is_some_and(|connection| connection.server_is_ending(proc))
    }

    /// Follows a starting container or exec.
    pub(crate) fn launch_progress(&mut self, key: Key) {
        if let Some(container) = self.containers.get_mut(&key) {
            let Phase::Starting(launch) = &mut container.phase else { return };
            match launch.progress() {
                Launched::NotYet => {}
                Launched::Running if container.process.is_made() => self.container_runs(key),
                // A helper that was killed: the response follows once it is reaped.
                Launched::Running => self.poller.remove(&launch.report),
                Launched::Failed => {
                    // The response follows once it is reaped: its cgroup is empty then, and can be removed.
                    self.poller.remove(&launch.report);
                    let _ = container.process.signal(Signal::KILL);
                }
            }
        } else if let Some(exec) = self.execs.get_mut(&key) {
            let Some(launch) = &mut exec.launch else { return };
            match launch.progress() {
                Launched::NotYet => {}
                Launched::Running if exec.process.is_made() => self.exec_runs(key),
                Launched::Running => launch.stop_polling(&self.poller),
                Launched::Failed => {
                    launch.stop_polling(&self.poller);
                    exec.kill_group();
                }
            }
        }
    }
}

fn exit_status(status: WaitStatus) -> Option<ExitStatus> {
    if let Some(code) = status.exit_status() {
        return Some(ExitStatus::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
    }
    status.terminating_signal().map(|signal| ExitStatus::Signal(u8::try_from(signal).unwrap_or(u8::MAX)))
}

/// Of a process that ended before it ran its program and reported nothing.
fn killed() -> StageError {
    StageError::explained(Stage::Clone, Errno::CHILD, "process: was killed before it could run")
}
