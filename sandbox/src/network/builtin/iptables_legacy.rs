//! The old iptables, whose rules can only be read by its own program.
//!
//! The program is never waited for while a pod is: what it finds is only advice, and its volume may be dead.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use super::firewall::{PodTraffic, iptables_chain};
use crate::network::nft::Hook;

/// The programs, with the files of the tables in use, one name per line.
const IPV4: (&str, &str) = ("iptables-legacy", "/proc/net/ip_tables_names");
const IPV6: (&str, &str) = ("ip6tables-legacy", "/proc/net/ip6_tables_names");

/// Time limit for the programs.
const DEADLINE: Duration = Duration::from_secs(2);
/// The age after which rules that were in order are read again.
const FRESH: Duration = Duration::from_secs(10);
/// Limit for the rules of one program.
const MAX_RULES: usize = 4 << 20;

/// A program, and where its rules drop packets of pods.
pub(super) type LegacyConflict = (&'static str, Hook);

/// The programs whose rules drop packets of pods. Clones share the last result.
#[derive(Debug, Clone, Default)]
pub(super) struct LegacyRules(Arc<Mutex<LastCheck>>);

#[derive(Debug, Default)]
struct LastCheck {
    ended: Option<Instant>,
    found: Vec<LegacyConflict>,
    /// Whether a thread runs the programs. It is never started twice: exec of a program on a dead volume may
    /// hang without an end.
    runs: bool,
}

impl LegacyRules {
    /// Whether the host has such rules.
    pub(super) fn are_used() -> bool {
        in_use(IPV4.1) || in_use(IPV6.1)
    }

    /// The programs whose chain FORWARD or INPUT drops what it does not know, and has no rule for the bridge. Waits
    /// for them at most [`DEADLINE`], and runs them at most every ten seconds while they are not in the way.
    pub(super) fn dropping(&self, traffic: &PodTraffic) -> Vec<LegacyConflict> {
        let tables = [Some(IPV4), traffic.has_ipv6.then_some(IPV6)];
        let used = tables.into_iter().flatten().filter(|(_, file)| in_use(file)).map(|(program, _)| program);
        let used: Vec<&'static str> = used.collect();
        if used.is_empty() {
            return Vec::new();
        }
        match self.start(used, traffic) {
            Ok(checked) => checked.recv_timeout(DEADLINE).unwrap_or_default(),
            Err(known) => known,
        }
    }

    /// Starts a check, or returns the last result.
    fn start(
        &self,
        programs: Vec<&'static str>,
        traffic: &PodTraffic,
    ) -> Result<Receiver<Vec<LegacyConflict>>, Vec<LegacyConflict>> {
        let mut last = self.lock();
        let is_fresh = last.found.is_empty() && last.ended.is_some_and(|ended| ended.elapsed() < FRESH);
        if last.runs || is_fresh {
            return Err(last.found.clone());
        }
        let (sender, checked) = channel();
        let (rules, traffic) = (self.clone(), traffic.clone());
        let check = move || {
            let end = Instant::now() + DEADLINE;
            let hooks = [Hook::Forward, Hook::Input].into_iter().filter(|hook| traffic.passes(*hook));
            let pairs = hooks.flat_map(|hook| programs.iter().map(move |program| (*program, hook)));
            let drops = |(program, hook): &LegacyConflict| {
                let chain = iptables_chain(*hook);
                drops(&list(program, chain, end), chain, &traffic.bridge)
            };
            let found: Vec<LegacyConflict> = pairs.filter(drops).collect();
            *rules.lock() = LastCheck { ended: Some(Instant::now()), found: found.clone(), runs: false };
            // The caller may have stopped waiting.
            let _ = sender.send(found);
        };
        let started = std::thread::Builder::new().name("iptables-legacy".to_owned()).spawn(check);
        last.runs = started.is_ok();
        started.map(|_| checked).map_err(|_| Vec::new())
    }

    fn lock(&self) -> MutexGuard<'_, LastCheck> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_use(file: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
}

/// Whether the chain drops what its rules do not know: by the first rule without a condition, or by its policy.
fn drops(rules: &str, chain: &str, bridge: &str) -> bool {
    let (rule, policy) = (format!("-A {chain} -j "), format!("-P {chain} DROP"));
    let targets = rules.lines().filter_map(|line| line.strip_prefix(&rule)?.split(' ').next());
    let mut verdicts = targets.filter(|target| matches!(*target, "ACCEPT" | "DROP" | "REJECT" | "RETURN"));
    let drops = match verdicts.next() {
        None | Some("RETURN") => rules.lines().any(|line| line == policy),
        Some(target) => target != "ACCEPT",
    };
    drops && !rules.contains(&format!(" {bridge} "))
}

/// The rules of the chain; those printed so far if the program does not end in time, none without the program:
/// then there is no advice for a host with such rules.
#[expect(clippy::disallowed_methods, reason = "the kernel's own interface to these rules is not for others")]
fn list(program: &str, chain: &str, end: Instant) -> String {
    let mut command = Command::new(program);
    command.args(["-S", chain]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.process_group(0).spawn() else { return String::new() };
    let rules = child.stdout.take().map(|stdout| read(stdout, end)).unwrap_or_default();
    kill(&mut child);
    String::from_utf8_lossy(&rules).into_owned()
}

fn read(mut stdout: ChildStdout, end: Instant) -> Vec<u8> {
    let mut rules = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap_or_default();
        let ready = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&left));
        match ready {
            // A signal that this thread has taken.
            Err(Errno::INTR) => continue,
            Ok(1..) if rules.len() <= MAX_RULES => {}
            _ => return rules,
        }
        match stdout.read(&mut chunk) {
            Ok(n @ 1..) => rules.extend_from_slice(&chunk[..n]),
            Ok(0) | Err(_) => return rules,
        }
    }
}

/// Ends it with the programs that it has started. It has changed nothing.
fn kill(child: &mut Child) {
    let group = Pid::from_raw(child.id().cast_signed());
    let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("iptables");
        fs::write(&program, "#!/bin/sh\necho -P FORWARD DROP\nsleep 1000 &\necho $! >$0.pid\nsleep 1000\n")
            .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let begun = Instant::now();
        let is_in_time = || begun.elapsed() < Duration::from_secs(60);
        // Other tests fork: for a moment their children have the program open for writing, and it cannot be executed.
        let rules = loop {
            let rules = list(program.to_str().unwrap(), "FORWARD", Instant::now() + Duration::from_secs(3));
            if !rules.is_empty() || !is_in_time() {
                break rules;
            }
        };
        assert!(drops(&rules, "FORWARD", "crisp0") && is_in_time(), "{rules}");
        let pid = fs::read_to_string(dir.path().join("iptables.pid")).unwrap();
        let has_ended = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        while !has_ended() {
            assert!(is_in_time(), "the program that it started goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn while_a_check_hangs_the_last_result_is_known_at_once() {
        let rules = LegacyRules::default();
        *rules.lock() = LastCheck { ended: None, found: vec![("iptables-legacy", Hook::Input)], runs: true };
        let traffic = PodTraffic { bridge: "crisp0".to_owned(), has_ipv6: true, is_forwarded: true };
        let known = rules.start(vec!["iptables-legacy"], &traffic).unwrap_err();
        assert_eq!(known, [("iptables-legacy", Hook::Input)]);
    }

    #[test]
    fn the_first_rule_without_a_condition_decides_before_the_policy() {
        for (rules, is_dropped) in [
            ("-P FORWARD DROP", true),
            ("-P FORWARD DROP\n-A FORWARD -j ACCEPT", false),
            ("-P FORWARD DROP\n-A FORWARD -j LOG --log-prefix DROP", true),
            ("-P FORWARD ACCEPT\n-A FORWARD -p tcp -j DROP\n-A FORWARD -o eth9 -j REJECT", false),
            (
                "-P FORWARD ACCEPT\n-A FORWARD -p tcp -j ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-net-unreachable",
                true,
            ),
            ("-P FORWARD ACCEPT\n-A FORWARD -i crisp0 -j ACCEPT\n-A FORWARD -j DROP", false),
            ("-P FORWARD ACCEPT\n-A FORWARD -j RETURN\n-A FORWARD -j DROP", false),
        ] {
            assert_eq!(drops(rules, "FORWARD", "crisp0"), is_dropped, "{rules}");
        }
        assert!(!drops("-P FORWARD DROP\n-A FORWARD -j DROP", "INPUT", "crisp0"));
    }
}
