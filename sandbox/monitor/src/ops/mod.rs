//! What a server can ask for: a file for each operation.

mod attach;
mod exec;
mod forget;
mod hello;
mod kill_exec;
mod network;
mod open_pod;
mod reopen_log;
mod report;
mod resize;
pub(crate) mod shutdown;
mod signal;
mod start;
mod stdin;

use crisp_executor::id::ContainerId;
use crisp_monitor::wire::{Failure, Op, PROTOCOL};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::container::Container;
use crate::monitor::{Answer, Call, Monitor};
use crate::poller::Key;

/// Does what is asked.
pub(crate) fn perform(monitor: &mut Monitor, call: Call) -> Result<Answer, Failure> {
    let number = call.header.op;
    if number >= Op::FIRST_VERSIONED && call.header.version != PROTOCOL {
        return Err(Failure::Version { monitor: PROTOCOL, client: call.header.version });
    }
    let op = Op::from_number(number).ok_or(Failure::UnknownOperation { op: number })?;
    match op {
        Op::Hello => monitor.hello(),
        Op::Report => monitor.report(),
        Op::Signal => monitor.signal(call),
        Op::Shutdown => monitor.shutdown(call),
        Op::Event => Err(Failure::UnknownOperation { op: number }),
        Op::OpenPod => monitor.open_pod(call),
        Op::Network => monitor.network(),
        Op::Start => monitor.start(call),
        Op::Exec => monitor.exec(call),
        Op::KillExec => monitor.kill_exec(call),
        Op::ReopenLog => monitor.reopen_log(call),
        Op::Forget => monitor.forget(call),
        Op::Resize => monitor.resize(call),
        Op::OpenStdin => monitor.open_stdin(call),
        Op::CloseStdin => monitor.close_stdin(call),
        Op::Attach => monitor.attach(call),
    }
}

impl Monitor {
    fn find(&mut self, id: &ContainerId) -> Result<(Key, &mut Container), Failure> {
        self.containers
            .iter_mut()
            .find(|(_, container)| container.id == *id)
            .map(|(key, container)| (*key, container))
            .ok_or_else(|| Failure::UnknownContainer { container: id.to_string() })
    }
}

fn system(action: &str) -> impl Fn(Errno) -> Failure + '_ {
    move |errno| Failure::System { action: action.to_owned(), errno: errno.raw_os_error() }
}

/// All that a memfd holds.
fn read_whole(file: &OwnedFd) -> Result<Vec<u8>, Failure> {
    /// A plan is some ten kilobytes, most of it a seccomp program.
    const MOST: u64 = 16 << 20;
    let failed = system("read the plan");
    let size = u64::try_from(rustix::fs::fstat(file).map_err(&failed)?.st_size).unwrap_or(0);
    if size > MOST {
        return Err(Failure::Malformed { reason: format!("a plan of {size} bytes") });
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(file, &mut bytes[done..], done as u64) {
            Ok(0) => return Err(Failure::Malformed { reason: "a plan cut short".into() }),
            Ok(got) => done += got,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(bytes)
}
