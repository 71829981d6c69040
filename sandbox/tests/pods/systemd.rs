//! Pods in scopes of the host's own systemd. The fault tests beside this file run with it too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_executor::cgroup::{CgroupError, Cgroups, Memory, Resources};
use crisp_sandbox::systemd::slice_path;
use crisp_sandbox::{Pod, PodConfig, PodResources, PodState};

use crate::lab::{Lab, cgroup, config, ended, monitor_pid, systemctl, until, uses_systemd};

macro_rules! needs_systemd {
    () => {
        crisp_skip::needs!();
        if !uses_systemd() {
            crisp_skip::unsupported!(CgroupDriver("systemd"));
        }
    };
}

/// `0::/a/b` of cgroups(7).
fn cgroup_of(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.trim().strip_prefix("0::").unwrap().to_owned()
}

fn show(pod: &Pod, property: &str) -> String {
    let unit = format!("crisp-{}.scope", pod.id);
    systemctl(&["show", "--value", "--property", property, &unit]).trim().to_owned()
}

fn file(cgroup: &str, name: &str) -> String {
    std::fs::read_to_string(format!("/sys/fs/cgroup{cgroup}/{name}")).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_pod_is_in_a_scope_of_its_slice_and_reloads_change_nothing() {
    needs_systemd!();
    let lab = Lab::new().await;
    let folder = lab.folder.path();
    let slice = cgroup(folder);
    let named = lab.pod(config(folder, "named")).await;
    let own = lab.pod(PodConfig { cgroup_parent: None, ..config(folder, "own") }).await;
    let limit = Memory { limit: Some(64 << 20), ..Memory::default() };
    let resources = Resources { memory: limit, ..Resources::default() };
    let resources = PodResources { overhead: None, containers: Some(resources) };
    lab.pods.update(&own, resources).await.unwrap();
    let places = [
        (&named, format!("{slice}/crisp-{0}.scope/{0}", named.id)),
        (&own, format!("/crisp.slice/crisp-{0}.scope/pod/{0}", own.id)),
    ];
    for reload in [None, Some("daemon-reload"), Some("daemon-reexec"), Some("daemon-reload")] {
        reload.map(|reload| systemctl(&[reload]));
        for (pod, place) in &places {
            assert_eq!(&cgroup_of(monitor_pid(pod)), place, "{reload:?}");
            assert_eq!(show(pod, "Delegate"), "yes", "{reload:?}");
            assert_eq!(show(pod, "TasksMax"), "infinity");
            assert_eq!(show(pod, "ActiveState"), "active");
            let controllers = file(place, "cgroup.controllers");
            for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
                assert!(controllers.contains(controller), "{controller}: {controllers} {reload:?}");
            }
        }
        let whole = own.whole_cgroup().as_str();
        assert_eq!(file(whole, "memory.max"), (64 << 20).to_string(), "{reload:?}");
        assert_eq!(show(&named, "Slice"), slice.name());
        let name = format!("after-{}", reload.unwrap_or("nothing"));
        let later = lab.pod(config(folder, &name)).await;
        lab.pods.remove(&later.id).await.unwrap();
    }
    lab.clear().await;
    assert_eq!(show(&own, "LoadState"), "not-found", "the unit of a removed pod");
}

/// A scope whose processes all died is gone by itself: nothing is left to be reset.
#[tokio::test]
async fn a_dead_pod_leaves_no_failed_unit() {
    needs_systemd!();
    let lab = Lab::new().await;
    let pod = lab.pod(config(lab.folder.path(), "dead")).await;
    let unit = format!("crisp-{}.scope", pod.id);
    systemctl(&["kill", "--signal=SIGKILL", &unit]);
    until(&pod, |state| *state == PodState::Lost).await;
    // As for a start of a container that was under way: nothing that systemd does not know is made.
    let cgroup = pod.cgroup_parent().child("late").unwrap();
    let begun = Instant::now();
    loop {
        match pod.create_cgroup(&Cgroups::detect().unwrap(), &cgroup) {
            Err(CgroupError::Gone { .. }) => break,
            // Before systemd has removed the scope.
            made => drop(made.unwrap()),
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "systemd keeps the scope");
        std::thread::sleep(Duration::from_millis(10));
    }
    lab.clear().await;
    assert!(!systemctl(&["--failed", "--all", "--plain", "--no-legend"]).contains(&unit));
}

/// systemd refuses a slice that it has masked; the error says so in its words, and nothing is left.
#[tokio::test]
async fn what_systemd_refuses_is_undone() {
    needs_systemd!();
    let lab = Lab::new().await;
    let slice = cgroup(lab.folder.path());
    systemctl(&["mask", "--runtime", slice.name()]);
    let error = lab.pods.run(config(lab.folder.path(), "masked")).await.unwrap_err().to_string();
    systemctl(&["unmask", "--runtime", slice.name()]);
    assert!(error.contains("run_pod: stage scope: ") && error.contains("masked"), "{error}");
    assert!(!error.contains("undoing"), "{error}");
    assert!(lab.pods.list().is_empty());
    lab.assert_empty();
}

/// Folders of units with names like those of a cgroup's files are called otherwise.
#[tokio::test]
async fn a_pod_is_where_systemd_has_its_slice_whatever_the_name() {
    needs_systemd!();
    let lab = Lab::new().await;
    let name = format!("crisp{}", std::process::id());
    for slice in [format!("memory-{name}.slice"), format!("_{name}.slice"), format!("io-{name}-x.slice")] {
        let parent = slice_path(&slice).unwrap();
        let config = config(lab.folder.path(), &slice);
        let pod = lab.pod(PodConfig { cgroup_parent: Some(parent.clone()), ..config }).await;
        let of_systemd = systemctl(&["show", "--value", "--property=ControlGroup", &slice]);
        assert_eq!(parent.as_str(), of_systemd.trim(), "{slice}");
        assert_eq!(cgroup_of(monitor_pid(&pod)), format!("{parent}/crisp-{0}.scope/{0}", pod.id));
        lab.pods.remove(&pod.id).await.unwrap();
        assert_eq!(show(&pod, "LoadState"), "not-found");
        systemctl(&["stop", &slice]);
    }
    lab.clear().await;
}

/// The process that holds a scope is killed at any moment: a pod is whole and where it belongs, or not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_never_made_in_a_scope_that_systemd_has_given_up() {
    needs_systemd!();
    let lab = Lab::new().await;
    let running = Arc::new(());
    let killer = {
        let (running, slice) = (Arc::downgrade(&running), cgroup(lab.folder.path()));
        std::thread::spawn(move || {
            while running.strong_count() > 0 {
                kill_holders(slice.as_str());
                std::thread::sleep(Duration::from_micros(100));
            }
        })
    };
    let (mut made, mut failed) = (0, 0);
    while made + failed < 100 && failed < 5 {
        match lab.pods.run(config(lab.folder.path(), &format!("held-{}", made + failed))).await {
            Ok(id) => {
                let pod = lab.pods.get(&id).unwrap();
                let scope = format!("{}/crisp-{id}.scope/", cgroup(lab.folder.path()));
                assert!(cgroup_of(monitor_pid(&pod)).starts_with(&scope));
                assert_eq!(show(&pod, "ActiveState"), "active");
                made += 1;
            }
            Err(error) => {
                let error = error.to_string();
                println!("{error}");
                assert!(!error.contains("undoing"), "{error}");
                failed += 1;
            }
        }
    }
    drop(running);
    killer.join().unwrap();
    assert!(failed > 0, "of {made} pods the holder was never killed in time");
    lab.clear().await;
}

/// Those that systemd has put into the slice.
fn kill_holders(slice: &str) {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let of_process = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let is_here = || of_process("cgroup").starts_with(format!("0::{slice}/").as_bytes());
        if of_process("cmdline").starts_with(b"crisp-scope\0") && is_here() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Connections and answers are lost in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn pods_are_made_while_systemd_executes_itself_anew() {
    needs_systemd!();
    let lab = Lab::new().await;
    let running = Arc::new(());
    let restarts = {
        let running = Arc::downgrade(&running);
        std::thread::spawn(move || {
            while running.strong_count() > 0 {
                systemctl(&["daemon-reexec"]);
                std::thread::sleep(Duration::from_millis(300));
            }
        })
    };
    for n in 0..20 {
        let pod = lab.pod(config(lab.folder.path(), &format!("reexec-{n}"))).await;
        assert_eq!(pod.status().state, PodState::Ready);
    }
    drop(running);
    restarts.join().unwrap();
    lab.clear().await;
}

/// And with them a shutdown of the host: systemd waits 90 s for a process that does not end.
#[tokio::test]
async fn a_slice_stops_at_once_and_its_pods_are_lost() {
    needs_systemd!();
    let lab = Lab::new().await;
    let pod = lab.pod(config(lab.folder.path(), "stopped")).await;
    let begun = Instant::now();
    systemctl(&["stop", cgroup(lab.folder.path()).name()]);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    ended(monitor_pid(&pod)).await;
    until(&pod, |state| *state == PodState::Lost).await;
    lab.clear().await;
}
