//! `crisp-pod`: the monitor of one pod. One thread, one loop, as little memory as possible.
//!
//! ```text
//!  servers --- Connection --+
//!  signals ---- signalfd ---+-- Poller -- Monitor --+-- Pod: namespaces, exit records
//!  child ------- Launch ----+                       +-- Container: Child, streams -> Log, Exit
//!  output ------ Streams ---+                       +-- Exec: Child
//! ```
//!
//! It is run for one pod, or as a fork server (see `fork.rs`) whose copies are the monitors of pods.
//!
//! It ends only by the operation `shutdown`, or with its containers when the host's init stops it (see
//! `monitor/ending.rs`), or when no server ever opened a pod in it. It reports failures in the response to
//! the failed request; its only other log is descriptor 2.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod child;
mod clients;
mod clock;
mod connection;
mod container;
mod exec;
mod fork;
mod held;
mod launch;
mod log;
mod monitor;
mod ops;
mod pod;
mod poller;
mod reap;
mod sys;

use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use crisp_executor::ids::PodId;
use crisp_monitor::SCOPE_HOLDER;
use crisp_monitor::fork_server::{ForkRequest, UNNAMED};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use monitor::Monitor;
use pod::{LeftHost, Pod};

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name.as_bytes() == SCOPE_HOLDER.to_bytes()) {
        hold_scope();
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            complain(&reason);
            ExitCode::FAILURE
        }
    }
}

/// Runs until the server closes the other end of standard input, or has ended.
fn hold_scope() {
    let _ = rustix::thread::set_name(SCOPE_HOLDER);
    while matches!(rustix::io::read(rustix::stdio::stdin(), &mut [0; 1]), Ok(1..) | Err(Errno::INTR)) {}
}

fn run() -> Result<(), String> {
    let usage = || "usage: crisp-pod POD-ID, with a listening socket as descriptor 0".to_owned();
    let id = std::env::args().nth(1).ok_or_else(usage)?;
    sys::small_heap();
    prepare_program();
    if id == UNNAMED {
        return serve();
    }
    let pod = PodId::parse(&id).map_err(|error| error.to_string())?;
    let listener = take_socket().map_err(step("take the socket from descriptor 0"))?;
    monitor(pod, Pod::Fresh(None), listener)
}

/// Runs as a fork server, and in its copies as a monitor.
fn serve() -> Result<(), String> {
    let server = take_socket().map_err(step("take the socket from descriptor 0"))?;
    sys::block_signals().map(drop).map_err(step("block signals"))?;
    let mut host = LeftHost::leave().map_err(|failure| failure.to_string())?;
    let Some(request) = fork::serve(server, &mut host).map_err(|error| error.to_string())? else {
        return Ok(());
    };
    let ForkRequest { pod, network, listener, log, cgroup } = request;
    if !network {
        // It stays with the fork server, for another copy.
        host.network = None;
    }
    rustix::stdio::dup2_stderr(&log).map_err(step("take the log"))?;
    // The log is descriptor 2 now, and the copy was started in the cgroup.
    drop((log, cgroup));
    monitor(pod, Pod::Fresh(Some(host)), listener)
}

fn monitor(id: PodId, pod: Pod, listener: OwnedFd) -> Result<(), String> {
    if !rustix::net::sockopt::socket_acceptconn(&listener).map_err(step("look at the socket"))? {
        return Err("the socket does not listen".to_owned());
    }
    let signals = sys::block_signals().map_err(step("block signals"))?;
    prepare_process();
    let monitor = Monitor::new(id, pod, listener, signals).map_err(step("set up"))?;
    monitor.run().map_err(step("wait for events"))
}

fn step(name: &'static str) -> impl Fn(Errno) -> String {
    move |errno| format!("{name}: {}", std::io::Error::from(errno))
}

/// Moves the socket from descriptor 0, where containers look for their standard input.
fn take_socket() -> Result<OwnedFd, Errno> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

/// Prepares the part that copies of this process share. A pod works without each of these steps.
fn prepare_program() {
    let _ = rustix::thread::set_name(c"crisp-pod");
    // Containers inherit the umask, and must not inherit that of the server.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // A container's memory pressure must not end the pod; refused where the capability is missing.
    if let Ok(file) =
        rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    {
        let _ = rustix::io::write(file, b"-998");
    }
}

/// Prepares each process. A pod works without either of these steps.
fn prepare_process() {
    let _ = rustix::process::setsid();
    // Orphans in the host's PID namespace become children of the monitor, which reaps them.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Writes to descriptor 2, the monitor's log in the pod's folder.
fn complain(text: &str) {
    let line = format!("crisp-pod: {text}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}
