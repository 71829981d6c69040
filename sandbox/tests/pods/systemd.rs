//! Pods in scopes of the host's own systemd. The fault tests beside this file run with it too.

use crisp_executor::cgroup::{Memory, Resources};
use crisp_sandbox::{Pod, PodConfig, PodResources};

use crate::lab::{Lab, cgroup, config, monitor_pid, systemctl, uses_systemd};

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
    crate::lab::until(&pod, |state| matches!(state, crisp_sandbox::PodState::Lost)).await;
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
