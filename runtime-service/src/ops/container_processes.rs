//! The processes of a container, as the kernel shows them to the host. See proc_pid_stat(5).

use std::fs;
use std::sync::Arc;

use crisp_operation::clock;
use crisp_sandbox::arguments::first_arguments;

use super::container_cgroup;
use crate::cause::{Cause, Steps};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

/// Limit; only the first processes of larger containers are listed.
const MAX: usize = 10_000;
/// Bytes of one command that are shown.
const MAX_COMMAND: usize = 4096;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub uid: u32,
    pub state: char,
    pub cpu_ns: u64,
    /// Nanoseconds since 1970.
    pub started_at: i64,
    pub resident_bytes: u64,
    pub command: String,
}

/// All processes in the container's cgroup, and in those below it.
///
/// # Errors
/// The container does not run, or its cgroup cannot be read.
pub async fn processes(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
) -> Result<Vec<Process>, RuntimeError> {
    let id = container.id().clone();
    let status = container.status();
    if !status.state.may_run() {
        let refusal = status.state.refuse("have its processes listed");
        return Err(RuntimeError::Refused { id, refusal });
    }
    let operation = service.operation("list_processes", &id);
    let service = service.clone();
    let work = move |steps: &Steps| {
        let pids = || match container_cgroup::open(&service, &container)? {
            Some(cgroup) => Ok::<_, Cause>(cgroup.pids()?),
            None => Ok(Vec::new()),
        };
        let pids = steps.step("cgroup", pids)?;
        let boot = boot_time();
        Ok(pids.into_iter().take(MAX).filter_map(|pid| read(pid, boot)).collect())
    };
    let result = operation.blocking(std::time::Duration::from_secs(10), work).await;
    Ok(operation.finish(result).await?)
}

/// The time of the kernel's boot, in nanoseconds since 1970.
fn boot_time() -> i64 {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    clock::now() - uptime.tv_sec * 1_000_000_000 - uptime.tv_nsec
}

/// None if it has ended meanwhile.
fn read(pid: i32, boot: i64) -> Option<Process> {
    // A name may have any bytes: a process must not hide by that.
    let text = |file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stat, status) = (text("stat")?, text("status")?);
    let uid = effective_uid(&status)?;
    let arguments = first_arguments(pid, MAX_COMMAND as u64);
    parse(pid, uid, &stat, &arguments, boot)
}

/// From `Uid:` with real, effective, saved and file system id. The owner of /proc/PID differs for programs
/// that are not dumpable.
fn effective_uid(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

fn parse(pid: i32, uid: u32, stat: &str, arguments: &[u8], boot: i64) -> Option<Process> {
    const TICK: u64 = 10_000_000;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    // From the third field of the file on.
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)?;
    let started = number(19)?.saturating_mul(TICK);
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        uid,
        state: fields.first()?.chars().next()?,
        cpu_ns: ticks.saturating_mul(TICK),
        started_at: boot.saturating_add(i64::try_from(started).ok()?),
        resident_bytes: number(21)?.saturating_mul(rustix::param::page_size() as u64),
        command: command(name, arguments),
    })
}

fn command(name: &str, arguments: &[u8]) -> String {
    let end = arguments.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let shown = &arguments[..end.min(MAX_COMMAND)];
    let text: Vec<u8> = shown.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
    let text = if shown.is_empty() { format!("[{name}]").into() } else { String::from_utf8_lossy(&text) };
    // The text is the container's, and the reader may be a terminal: control characters are replaced.
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_move_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 1000 4096 3 184 1";
        assert_eq!(command("\u{1b}[2J", b""), "[?[2J]");
        let process = parse(7, 5, stat, b"sh\0-c\0x\x1b\0", 9).unwrap();
        assert_eq!((process.parent, process.state, process.uid), (1, 'S', 5));
        assert_eq!(process.cpu_ns, 2_000_000_000);
        assert_eq!(process.started_at, 10_000_000_009);
        assert_eq!(process.resident_bytes, 3 * rustix::param::page_size() as u64);
        assert_eq!(process.command, "sh -c x?");
        assert_eq!(parse(7, 5, stat, b"", 0).unwrap().command, "[a) b (c)]");
        assert_eq!(parse(7, 5, "7 (x) S 1", b"", 0), None);
    }
}
