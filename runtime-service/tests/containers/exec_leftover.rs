//! ExecSync: the processes that a command leaves behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::exec::cgroups_below;
use crate::lab::{Lab, lab, shell};

/// How many processes in the container have `sleep number` as their command line.
async fn sleepers(lab: &Lab, id: &str, number: u32) -> usize {
    let table = lab.exec(id, &["ps", "-o", "args"], 0).await.unwrap().stdout;
    let wanted = format!("sleep {number}");
    String::from_utf8(table).unwrap().lines().filter(|line| line.trim() == wanted).count()
}

/// Waits until no such process is left.
async fn none_left(lab: &Lab, id: &str, number: u32) {
    let begun = Instant::now();
    while sleepers(lab, id, number).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "sleep {number} is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_probe_leaves_no_process_however_it_is_detached() {
    let lab = lab!();
    let pod = lab.pod("rest").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    for (number, line) in [
        (701, "setsid sleep 701 >/dev/null 2>&1 &"),
        (702, "echo said; setsid sleep 702 &"),
        (703, "(setsid sh -c '(sleep 703 &) ; sleep 703' >/dev/null 2>&1 &)"),
        (704, "sleep 704 >/dev/null 2>&1 & exit 3"),
        (705, "sleep 0.3; setsid sleep 705 >/dev/null 2>&1 &"),
    ] {
        // The process is in its session before its parent ends.
        let line = format!("{line}\n sleep 0.1");
        let answer = lab.exec(&id, &["sh", "-c", &line], 10).await.unwrap();
        let expected = if number == 704 { 3 } else { 0 };
        assert_eq!(answer.exit_code, expected, "{line}");
        assert_eq!(answer.stdout, if number == 702 { &b"said\n"[..] } else { b"" }, "{line}");
        none_left(&lab, &id, number).await;
    }
    // The last one may still be removed in the background; then another number is used.
    for _ in 0..1000 {
        assert_eq!(lab.exec(&id, &["true"], 10).await.unwrap().exit_code, 0);
        if cgroups_below(&id).contains("exec-0") {
            break;
        }
    }
    let all = cgroups_below(&id);
    assert!(all.contains("exec-0"), "made again: {all:?}");
    lab.remove_pod(&pod).await;
}

/// A daemon that a hook has started must live on when probes use the cgroup that it was started in.
#[tokio::test]
async fn a_hook_may_start_a_daemon_and_later_probes_do_not_end_it() {
    let lab = lab!();
    let pod = lab.pod("daemon").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let start = "setsid sleep 711 >/dev/null 2>&1 &";
    lab.exec(&id, &["sh", "-c", start], 0).await.unwrap();
    // It keeps the output open. A command without a limit does not wait for that either.
    lab.exec(&id, &["sh", "-c", "setsid sleep 711 &"], 0).await.unwrap();
    for line in ["true", "setsid sleep 712 >/dev/null 2>&1 &", "true"] {
        lab.exec(&id, &["sh", "-c", line], 10).await.unwrap();
    }
    none_left(&lab, &id, 712).await;
    assert_eq!(sleepers(&lab, &id, 711).await, 2);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn commands_after_a_probe_are_not_killed_with_what_it_left() {
    let lab = lab!();
    let pod = lab.pod("after").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    for _ in 0..20 {
        lab.exec(&id, &["sh", "-c", "setsid sleep 721 >/dev/null 2>&1 & true"], 10).await.unwrap();
        let next = [0, 0, 10, 10].map(|limit| lab.exec(&id, &["sleep", "0.01"], limit));
        let [a, b, c, d] = next;
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        for answer in [a, b, c, d] {
            assert_eq!(answer.unwrap().exit_code, 0);
        }
    }
    none_left(&lab, &id, 721).await;
    lab.remove_pod(&pod).await;
}

/// The cgroup folder of this name below the container's, in the hierarchy that has it.
fn exec_cgroup(id: &str, name: &str) -> Option<PathBuf> {
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        if folder.ends_with(Path::new(id).join(name)) {
            return Some(folder);
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()),
        );
    }
    None
}

/// The folder, and the process in it whose command line is `sleep number`.
fn sleeper_in(folder: PathBuf, number: u32) -> Option<(PathBuf, String)> {
    let pids = std::fs::read_to_string(folder.join("cgroup.procs")).ok()?;
    let wanted = format!("sleep\0{number}\0").into_bytes();
    let is_sleeper =
        |pid: &&str| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted);
    let pid = pids.lines().find(is_sleeper)?.to_owned();
    Some((folder, pid))
}

#[tokio::test]
async fn a_process_in_a_cgroup_below_is_killed_too() {
    let lab = lab!();
    let pod = lab.pod("nested").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    // It ends when its sleeper has been moved.
    let line =
        "setsid sleep 731 >/dev/null 2>&1 & while ! grep -q /below$ /proc/[0-9]*/cgroup; do sleep 0.02; done";
    let command = ["sh", "-c", line];
    let probe = lab.exec(&id, &command, 20);
    let nest = async {
        let begun = Instant::now();
        let (folder, pid) = loop {
            if let Some(found) = exec_cgroup(&id, "exec-0").and_then(|folder| sleeper_in(folder, 731)) {
                break found;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "no sleeper in the exec cgroup");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let below = folder.join("below");
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("cgroup.procs"), pid).unwrap();
        below
    };
    let (answer, below) = tokio::join!(probe, nest);
    assert_eq!(answer.unwrap().exit_code, 0);
    none_left(&lab, &id, 731).await;
    let begun = Instant::now();
    while below.exists() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lab.remove_pod(&pod).await;
}
