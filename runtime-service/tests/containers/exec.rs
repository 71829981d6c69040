//! ExecSync.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tonic::Code;

use crate::lab::{lab, resources, shell};

#[tokio::test]
async fn output_and_code_come_back() {
    let lab = lab!();
    let pod = lab.pod("exec").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let answer = lab.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 9"], 0).await.unwrap();
    assert_eq!((&answer.stdout[..], &answer.stderr[..], answer.exit_code), (&b"out\n"[..], &b"err\n"[..], 9));
    let big = lab.exec(&id, &["dd", "if=/dev/zero", "bs=1M", "count=20"], 0).await.unwrap();
    assert_eq!(
        (big.stdout.len(), big.exit_code),
        ((16 << 20) - 1024, 0),
        "the rest of a message is for the rest of the answer"
    );
    let error = lab.exec(&id, &["/bin/nope"], 0).await.unwrap_err();
    assert!(error.message().contains("/bin/nope"), "{error}");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_command_that_does_not_end_is_killed_with_what_it_started() {
    let lab = lab!();
    let pod = lab.pod("deadline").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let begun = Instant::now();
    let error = lab.exec(&id, &["sh", "-c", "sleep 777 & setsid sleep 778 & wait"], 1).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let left = lab.sh(&id, "ps | grep -v grep | grep 'sleep 77' || true").await;
    assert_eq!(left, "");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_pipes_does_not_hang_it() {
    let lab = lab!();
    let pod = lab.pod("pipes").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let begun = Instant::now();
    let answer = lab.exec(&id, &["sh", "-c", "echo said; setsid sleep 30 &"], 10).await.unwrap();
    assert_eq!((&answer.stdout[..], answer.exit_code), (&b"said\n"[..], 0));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    lab.remove_pod(&pod).await;
}

/// The names of all cgroups below the container's, in every hierarchy.
pub fn cgroups_below(id: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let of_container = folder.file_name().is_some_and(|name| name == id);
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if of_container {
                    names.insert(entry.file_name().to_string_lossy().into_owned());
                }
                folders.push(entry.path());
            }
        }
    }
    names
}

#[tokio::test]
async fn probes_make_no_new_cgroup_each() {
    let lab = lab!();
    let pod = lab.pod("probes").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let hook = "setsid sleep 1000 >/dev/null 2>&1 &";
    for (line, limit) in [("true", 10), (hook, 0), ("true", 10), ("exit 3", 10), ("true", 10)] {
        lab.exec(&id, &["sh", "-c", line], limit).await.unwrap();
    }
    assert_eq!(cgroups_below(&id), ["exec-0".to_owned()].into());
    let two = [&["sleep", "0.3"][..], &["sleep", "0.3"][..]].map(|words| lab.exec(&id, words, 10));
    let [first, second] = two;
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap().exit_code, second.unwrap().exit_code), (0, 0));
    assert_eq!(cgroups_below(&id), ["exec-0".to_owned(), "exec-1".to_owned()].into());
    assert_eq!(
        lab.sh(&id, "ps | grep -v grep | grep -c 'sleep 1000'").await,
        "2\n",
        "what a hook left lives on"
    );
    lab.remove_pod(&pod).await;
    assert_eq!(cgroups_below(&id), BTreeSet::new());
}

/// How many files this process, which is the server, has open in cgroups of the container.
fn open_files_of(id: &str) -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.starts_with("/sys/fs/cgroup") && link.to_string_lossy().contains(id)).count()
}

/// The first command makes the cgroup, the second opens it, and a third finds it open.
#[tokio::test]
async fn the_files_of_an_exec_cgroup_stay_open_until_the_container_ends() {
    let lab = lab!();
    let pod = lab.pod("kept").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        lab.exec(&id, &["true"], 10).await.unwrap();
        open.push(open_files_of(&id));
    }
    assert!(open[1] > open[0] && open[1..] == [open[1]; 3], "{open:?}");
    // A command that is killed takes its cgroup along.
    lab.exec(&id, &["sleep", "1000"], 1).await.unwrap_err();
    lab.exec(&id, &["true"], 10).await.unwrap();
    lab.stop(&id, 0).await.unwrap();
    let begun = Instant::now();
    while open_files_of(&id) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} files stay open", open_files_of(&id));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_command_is_held_by_the_containers_memory_limit() {
    let lab = lab!();
    let pod = lab.pod("memory").await;
    let mut config = shell("app", "sleep 1000");
    resources(&mut config).memory_limit_in_bytes = 20 << 20;
    let id = lab.run(&pod, config).await;
    let answer = lab.exec(&id, &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"], 20).await;
    assert_eq!(answer.unwrap().exit_code, 137);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn nothing_runs_in_what_does_not_run() {
    let lab = lab!();
    let pod = lab.pod("idle").await;
    let id = lab.create(&pod, shell("app", "true")).await.unwrap();
    assert_eq!(lab.exec(&id, &["true"], 0).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(lab.exec("ffff", &["true"], 0).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(lab.exec(&id, &[], 0).await.unwrap_err().code(), Code::InvalidArgument);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn commands_are_measured_by_outcome_also_those_whose_client_leaves() {
    let lab = lab!();
    let pod = lab.pod("measured").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let outcomes = ["exited", "failed", "deadline", "cancelled"];
    let measured = |outcome: &str, count| {
        let count = format!("crisp_exec_duration_seconds_count{{outcome=\"{outcome}\"}} {count}");
        let page = lab.metrics.text();
        assert!(page.contains(&count), "{count} in {page}");
    };
    // Each is there from the start.
    outcomes.iter().for_each(|outcome| measured(outcome, 0));
    lab.exec(&id, &["false"], 10).await.unwrap();
    lab.exec(&id, &["/bin/nope"], 10).await.unwrap_err();
    lab.exec(&id, &["sleep", "1000"], 1).await.unwrap_err();
    let leaves = tokio::time::timeout(Duration::from_millis(300), lab.exec(&id, &["sleep", "1000"], 10));
    assert!(leaves.await.is_err());
    outcomes.iter().for_each(|outcome| measured(outcome, 1));
    lab.remove_pod(&pod).await;
}
