//! Reads containers' output from their pipes and terminals into their logs.

use std::time::{Duration, Instant};

use crisp_executor::ids::ContainerId;
use crisp_monitor::wire::ExitRecord;
use crisp_monitor::wire::response::Event;
use rustix::io::Errno;

use super::Monitor;
use crate::container::{Container, Phase, Terminal};
use crate::log::{Change, Stream};
use crate::poller::{Key, Poller, Token};

/// Bytes of one read: the default capacity of a pipe.
const READ: usize = 64 << 10;
/// How long one output is read before others get their turn.
const TURN: Duration = Duration::from_millis(2);

/// Buffers for output, shared by all containers and freed when idle.
#[derive(Default)]
pub(crate) struct Scratch {
    output: Vec<u8>,
    records: Vec<u8>,
}

impl Scratch {
    pub(super) fn free(&mut self) {
        *self = Self::default();
    }
}

fn token(stream: Stream, key: Key) -> Token {
    match stream {
        Stream::Stdout => Token::Stdout(key),
        Stream::Stderr => Token::Stderr(key),
    }
}

/// Polls a container's output, unless its log or a client is blocked.
pub(crate) fn watch(poller: &Poller, key: Key, container: &mut Container) {
    let is_blocked = container.log.blocked();
    for stream in [Stream::Stdout, Stream::Stderr] {
        let Some(output) = container.output(stream) else { continue };
        let wanted = !is_blocked && output.clients.retry_at().is_none();
        if wanted && !output.polled {
            output.polled = poller.add(&output.source, token(stream, key)).is_ok();
        } else if !wanted && output.polled {
            // Removed, not just disabled: a hang-up of the pipe would still be reported.
            poller.remove(&output.source);
            output.polled = false;
        }
    }
}

/// The result of one turn at an output.
enum ReadResult {
    Again,
    Empty,
    Ended,
}

impl Monitor {
    pub(super) fn output_ready(&mut self, key: Key, stream: Stream) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        self.scratch.output.resize(READ, 0);
        let mut changes = Vec::new();
        let began = Instant::now();
        let result = loop {
            let result = take_turn(container, stream, &mut self.scratch, &mut changes);
            if !matches!(result, ReadResult::Again) || container.log.blocked() || began.elapsed() > TURN {
                break result;
            }
        };
        if matches!(result, ReadResult::Ended) {
            close(&self.poller, container, stream, &mut self.scratch, &mut changes);
        }
        watch(&self.poller, key, container);
        let id = container.id.clone();
        self.report_log_changes(&id, changes);
        if matches!(result, ReadResult::Ended) {
            self.announce_if_done(key, Instant::now());
        }
    }

    /// Tries clients with full pipes again.
    pub(super) fn retry_clients(&mut self, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        container.outputs.iter_mut().flatten().for_each(|output| output.clients.retry());
        watch(&self.poller, key, container);
    }

    pub(crate) fn report_log_changes(&mut self, container: &ContainerId, changes: Vec<Change>) {
        for change in changes {
            let container = container.clone();
            match change {
                Change::None => {}
                Change::Failing(errno) => self.broadcast(&Event::LogFailing { container, errno }),
                Change::Working => self.broadcast(&Event::LogWorking { container }),
            }
        }
    }

    /// Sends a container's exit to all clients once its output is complete, or the time for that is over.
    pub(crate) fn announce_if_done(&mut self, key: Key, now: Instant) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Phase::Ending { exit, .. } = container.phase else { return };
        let complete = !container.has_output() && !container.holds_back_output();
        if !complete && container.announce_at().is_some_and(|at| now < at) {
            return;
        }
        let mut changes = Vec::new();
        if !container.holds_back_output() {
            drain(&self.poller, container, &mut self.scratch, &mut changes);
        }
        container.phase = Phase::Exited(exit);
        container.stdin = None;
        container.cgroup = None;
        let (id, pid, started_at_ns) =
            (container.id.clone(), container.process.pid(), container.started_at_ns);
        self.pod.note_exit(&ExitRecord { container: id.clone(), pid, started_at_ns, exit });
        self.report_log_changes(&id, changes);
        self.broadcast(&Event::Exited { container: id, pid, started_at_ns, exit });
    }

    /// Removes a container and closes its descriptors.
    pub(crate) fn drop_container(&mut self, key: Key) {
        let Some(container) = self.containers.remove(&key) else { return };
        if let Phase::Starting(launch) = &container.phase {
            self.poller.remove(&launch.report);
        }
        for output in container.outputs.iter().flatten().filter(|output| output.polled) {
            self.poller.remove(&output.source);
        }
    }
}

/// Reads once and handles the result.
fn take_turn(
    container: &mut Container,
    stream: Stream,
    scratch: &mut Scratch,
    changes: &mut Vec<Change>,
) -> ReadResult {
    let alive = container.is_alive();
    let Some(output) = &mut container.outputs[stream as usize] else { return ReadResult::Empty };
    if output.clients.retry_at().is_some() {
        return ReadResult::Empty;
    }
    let Scratch { output: buffer, records } = scratch;
    let got = match rustix::io::read(&output.source, &mut buffer[..]) {
        Ok(0) => return ReadResult::Ended,
        Ok(got) => got,
        // No process has the terminal open: that is the end only if no process is left that could open it.
        Err(Errno::IO) => {
            let terminal = container.terminal.as_mut().filter(|_| alive);
            return if terminal.is_some_and(Terminal::hold) { ReadResult::Empty } else { ReadResult::Ended };
        }
        Err(Errno::AGAIN) => return ReadResult::Empty,
        Err(Errno::INTR) => return ReadResult::Again,
        Err(_) => return ReadResult::Ended,
    };
    output.clients.write(&buffer[..got]);
    note(changes, container.log.feed(stream, &buffer[..got], records));
    container.output_seen();
    ReadResult::Again
}

fn note(changes: &mut Vec<Change>, change: Change) {
    if change != Change::None {
        changes.push(change);
    }
}

fn close(
    poller: &Poller,
    container: &mut Container,
    stream: Stream,
    scratch: &mut Scratch,
    changes: &mut Vec<Change>,
) {
    if let Some(output) = container.outputs[stream as usize].take() {
        if output.polled {
            poller.remove(&output.source);
        }
        changes.push(container.log.finish(stream, &mut scratch.records));
    }
}

/// Reads the present output and closes: no process of the container is left, but others may have its pipes.
fn drain(poller: &Poller, container: &mut Container, scratch: &mut Scratch, changes: &mut Vec<Change>) {
    /// A pipe may hold up to a megabyte, and a process that keeps writing must not block the monitor.
    const MOST: usize = (1 << 20) / READ;
    for stream in [Stream::Stdout, Stream::Stderr] {
        if container.output(stream).is_none() {
            continue;
        }
        scratch.output.resize(READ, 0);
        for _ in 0..MOST {
            if container.log.blocked() {
                return;
            }
            // The log gets all of it, with or without the clients.
            container.output(stream).into_iter().for_each(|output| output.clients.give_up());
            if !matches!(take_turn(container, stream, scratch, changes), ReadResult::Again) {
                break;
            }
        }
        close(poller, container, stream, scratch, changes);
    }
}
