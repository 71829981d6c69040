//! Leaks in a monitor that has done much work.

use crisp_monitor::wire::ExitStatus;
use crisp_sandbox::link::ExecRequest;

use crate::harness::{Pod, missing};
use crate::plans::{exec_request, plan, process, sh};

/// The kinds of descriptors that a process has open.
fn descriptors(pid: i32) -> Vec<String> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let target = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.unwrap().path());
    let kind = |path: std::path::PathBuf| path.to_str().unwrap().split('[').next().unwrap().to_owned();
    let mut kinds: Vec<String> = folder.map(|entry| kind(target(entry).unwrap())).collect();
    kinds.sort();
    kinds
}

fn heap_kb(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn a_hundred_containers_and_execs_leave_no_descriptor_and_no_memory() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let (stays, _) = pod.start(&sh("while :; do busybox sleep 1000; done")).await.unwrap();
    let mut events = pod.link.events();
    let mut before = None;
    for n in 0..110_u64 {
        if n == 10 {
            before = Some((descriptors(pod.pid), heap_kb(pod.pid)));
        }
        let args: &[&str] = if n % 5 == 0 { &["/nowhere"] } else { &["/bin/busybox", "echo", "x"] };
        if let Ok((id, _)) = pod.start(&plan(args)).await {
            crate::harness::exit_of(&mut events, &id).await;
            pod.link.forget(&id).await.unwrap();
        }
        let request = ExecRequest {
            stdout: Some(pod.log_file(&stays)),
            ..exec_request(n, &stays, process(&["/bin/busybox", "true"]))
        };
        pod.link.exec(request).await.unwrap();
        assert_eq!(pod.link.wait_exec(n).await.unwrap(), ExitStatus::Code(0));
    }
    let (descriptors_before, heap_before) = before.unwrap();
    assert_eq!(descriptors(pod.pid), descriptors_before);
    let heap = heap_kb(pod.pid);
    eprintln!("anonymous memory: {heap_before} kB, after 100 containers more: {heap} kB");
    assert!(heap < heap_before + 64, "{heap_before} to {heap} kB");
    pod.shutdown().await;
}
