//! `crisp-pod`: the monitor of one pod. One thread, one loop, as little memory as can be.
//!
//! ```text
//!  servers --- Connection --+
//!  SIGCHLD ---- signalfd ---+-- Poller -- Monitor --+-- Pod: namespaces, exit records
//!  child ------- Launch ----+                       +-- Container: streams -> Log, Exit
//!  output ------ Streams ---+                       +-- Exec
//! ```
//!
//! It ends by the operation `shutdown` only, or when no server ever made a pod of it. It reports
//! failures in the response to the request that failed; it has no other log but descriptor 2.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod clock;
mod connection;
mod container;
mod exec;
mod launch;
mod log;
mod monitor;
mod ops;
mod pod;
mod poller;
mod reap;
mod sys;

use std::process::ExitCode;

use crisp_executor::id::PodId;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use monitor::Monitor;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            complain(&reason);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let usage = || "usage: crisp-pod POD-ID, with a listening socket as descriptor 0".to_owned();
    let id = std::env::args().nth(1).ok_or_else(usage)?;
    let pod = PodId::parse(&id).map_err(|error| error.to_string())?;
    sys::small_heap();
    let step = |name: &'static str| move |errno: Errno| format!("{name}: {}", std::io::Error::from(errno));
    let listener = take_listener().map_err(step("take the listening socket from descriptor 0"))?;
    let signals = sys::block_signals().map_err(step("block signals"))?;
    prepare_process();
    Monitor::new(pod, listener, signals).map_err(step("set up"))?.run().map_err(step("wait for events"))
}

/// Moves the socket from descriptor 0, where containers look for their standard input.
fn take_listener() -> Result<OwnedFd, Errno> {
    let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    if !rustix::net::sockopt::socket_acceptconn(&listener)? {
        return Err(Errno::INVAL);
    }
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(listener)
}

/// A pod works without each of these.
fn prepare_process() {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"crisp-pod");
    // Containers inherit it, and must not inherit what the server happened to be started with.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Orphans in the host's PID namespace become children of the monitor, which reaps them.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    // A container's memory pressure must not end the pod; refused where the capability is missing.
    if let Ok(file) =
        rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    {
        let _ = rustix::io::write(file, b"-998");
    }
}

/// To descriptor 2, which is the monitor's log in the pod's folder.
fn complain(text: &str) {
    let line = format!("crisp-pod: {text}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}
