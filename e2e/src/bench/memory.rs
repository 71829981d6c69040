//! Memory of a runtime's own processes, in kB: mostly the proportional set size.

use crate::Result;

/// PSS of one process.
///
/// # Errors
/// When the process has ended.
pub fn pss(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find(|l| l.starts_with("Pss:")).ok_or("no Pss line")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse()?)
}

/// Resident memory of one process that belongs to no file. Unlike PSS, it does not grow when another process ends that
/// had mapped the same program.
///
/// # Errors
/// When the process has ended.
pub fn anonymous(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|l| l.starts_with("RssAnon:")).ok_or("no RssAnon line")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse()?)
}

/// The processes whose first argument has one of these file names.
#[must_use]
pub fn processes(programs: &[&str]) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let program = bytes.split(|b| *b == 0).next().unwrap_or_default();
            let program = String::from_utf8_lossy(program);
            let name = program.rsplit('/').next().unwrap_or_default();
            programs.contains(&name)
        })
        .collect()
}

/// The processes that a runtime has per pod: monitors, shims, pause processes.
pub const PER_POD: [&str; 5] = ["crisp-pod", "containerd-shim-runc-v2", "conmon", "conmonrs", "/pause"];

/// The sum over all processes with these names.
#[must_use]
pub fn total(programs: &[&str]) -> f64 {
    processes(programs).into_iter().filter_map(|pid| pss(pid).ok()).sum()
}

/// PSS of the server behind a socket; NaN when it cannot be read.
#[must_use]
pub fn of_server(socket: &std::path::Path) -> f64 {
    server_of(socket).and_then(|pid| pss(pid).ok()).unwrap_or(f64::NAN)
}

/// The process that listens on a unix socket.
#[must_use]
pub fn server_of(socket: &std::path::Path) -> Option<i32> {
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    rustix::net::sockopt::socket_peercred(&stream).ok().map(|cred| cred.pid.as_raw_nonzero().get())
}
