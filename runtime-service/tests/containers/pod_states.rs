//! The view of clients on pods whose monitors are silent, or which have lost a part.

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};
use tonic::Request;

use crate::lab::{Lab, lab, shell};
use crate::restart::over_a_restart;

async fn pod_state(lab: &Lab, pod: &str) -> proto::PodSandboxState {
    let request = proto::ListPodSandboxRequest { filter: None };
    let pods = lab.service.list_pod_sandbox(Request::new(request)).await.unwrap().into_inner().items;
    pods.iter().find(|one| one.id == pod).unwrap().state()
}

#[test]
fn a_monitor_that_is_silent_at_a_restart_costs_its_containers_nothing() {
    over_a_restart(
        async |lab| {
            let pod = lab.pod("silent").await;
            let container = lab.run(&pod, shell("stays", "sleep 1000")).await;
            lab.recorded_as_running(&container).await;
            let monitor = lab.monitor_pid(&pod).await;
            kill_process(monitor, Signal::STOP).unwrap();
            let status = lab.status(&container).await.unwrap();
            (pod, container, monitor, status)
        },
        async |lab, (pod, container, monitor, before)| {
            // Anything else makes a kubelet kill what runs.
            assert_eq!(pod_state(lab, &pod).await, proto::PodSandboxState::SandboxReady);
            assert_eq!(lab.status(&container).await.unwrap(), before);
            let refused = lab.create(&pod, shell("more", "true")).await.unwrap_err();
            assert!(refused.message().contains("does not answer"), "{refused}");
            kill_process(monitor, Signal::CONT).unwrap();
            let begun = Instant::now();
            while let Err(error) = lab.exec(&container, &["true"], 5).await {
                assert!(begun.elapsed() < Duration::from_secs(30), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(lab.status(&container).await.unwrap(), before);
            lab.remove_pod(&pod).await;
        },
    );
}

/// A container that runs, of which the record says that it was created: the disk refused another. Its monitor is
/// stopped. Returns pod, container, monitor and the container's first process.
pub(crate) async fn started_without_a_record(lab: &Lab) -> (String, String, Pid, Pid) {
    let pod = lab.pod("unnoted").await;
    let id = lab.create(&pod, shell("stays", "sleep 1000")).await.unwrap();
    std::fs::create_dir(beside_status(lab, &id)).unwrap();
    lab.start(&id).await.unwrap();
    let monitor = lab.monitor_pid(&pod).await;
    let number = monitor.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap();
    let child = children.trim().parse().ok().and_then(Pid::from_raw).unwrap();
    kill_process(monitor, Signal::STOP).unwrap();
    (pod, id, monitor, child)
}

pub(crate) fn beside_status(lab: &Lab, id: &str) -> std::path::PathBuf {
    lab.dir.path().join("root/containers").join(id).join("status.json.new")
}

/// One that has ended may wait to be reaped by the host's init.
fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_container_whose_start_no_record_tells_is_unknown_and_ends_with_its_pod() {
    over_a_restart(
        async |lab| started_without_a_record(lab).await,
        async |lab, (pod, id, _, child)| {
            std::fs::remove_dir(beside_status(lab, &id)).unwrap();
            assert_eq!(lab.status(&id).await.unwrap().state(), proto::ContainerState::ContainerUnknown);
            let request = proto::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
            lab.service.stop_pod_sandbox(Request::new(request)).await.unwrap();
            assert!(!is_alive(child), "it outlives its pod");
            assert_eq!(lab.status(&id).await.unwrap().state(), proto::ContainerState::ContainerExited);
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn a_second_start_of_a_container_that_an_earlier_server_started_leaves_it_alone() {
    over_a_restart(
        async |lab| started_without_a_record(lab).await,
        async |lab, (pod, id, monitor, child)| {
            std::fs::remove_dir(beside_status(lab, &id)).unwrap();
            kill_process(monitor, Signal::CONT).unwrap();
            let begun = Instant::now();
            loop {
                let refused = lab.start(&id).await.expect_err("it has been started");
                if refused.message().contains("is running") {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(30), "{refused}");
            }
            assert!(is_alive(child));
            assert_eq!(lab.sh(&id, "echo alive").await, "alive\n");
            lab.remove_pod(&pod).await;
        },
    );
}

#[tokio::test]
async fn a_pod_whose_shared_pid_namespace_ended_is_not_ready_and_refuses_starts_by_name() {
    let lab = lab!();
    let mut config = lab.pod_config("shared");
    let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    linux.namespace_options.as_mut().unwrap().pid = proto::NamespaceMode::Pod.into();
    let pod = lab.run_pod(config).await.unwrap();
    let mut request = shell("waits", "sleep 1000");
    let context = request.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.namespace_options.as_mut().unwrap().pid = proto::NamespaceMode::Pod.into();
    let container = lab.create(&pod, request).await.unwrap();

    let monitor = lab.monitor_pid(&pod).await;
    let children = format!("/proc/{0}/task/{0}/children", monitor.as_raw_nonzero());
    let init: i32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
    let begun = Instant::now();
    while pod_state(&lab, &pod).await != proto::PodSandboxState::SandboxNotready {
        assert!(begun.elapsed() < Duration::from_secs(30), "the pod stays ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = lab.start(&container).await.unwrap_err();
    assert!(refused.message().contains("shared PID namespace ended"), "{refused}");
    lab.remove_pod(&pod).await;
}

async fn pod_info(lab: &Lab, pod: &str) -> serde_json::Value {
    let request = proto::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    let info = lab.service.pod_sandbox_status(Request::new(request)).await.unwrap().into_inner().info;
    serde_json::from_str(&info["info"]).unwrap()
}

async fn announce(
    lab: &Lab,
    pod: &str,
    overhead: Option<i64>,
    resources: Option<i64>,
) -> Result<(), tonic::Status> {
    let memory =
        |bytes| proto::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() };
    let request = proto::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.to_owned(),
        overhead: overhead.map(memory),
        resources: resources.map(memory),
    };
    lab.service.update_pod_sandbox_resources(Request::new(request)).await.map(drop)
}

/// The memory limit of a cgroup, in whichever hierarchy it is.
fn memory_limit(cgroup: &str) -> i64 {
    let v1 = format!("/sys/fs/cgroup/memory{cgroup}/memory.limit_in_bytes");
    let v2 = format!("/sys/fs/cgroup{cgroup}/memory.max");
    let text = std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(v2)).unwrap();
    text.trim().parse().unwrap_or(-1)
}

#[test]
fn a_pods_resources_are_noted_and_survive_a_restart() {
    const MIB: i64 = 1 << 20;
    // The cgroup of pods without a parent may be that of another server, too.
    let others = has_cgroup("crisp");
    over_a_restart(
        async |lab| {
            let pod = lab.pod("resized").await;
            let mut own = lab.pod_config("own-cgroup");
            own.linux.as_mut().unwrap().cgroup_parent.clear();
            let own = lab.run_pod(own).await.unwrap();
            for pod in [&pod, &own] {
                announce(lab, pod, Some(16 * MIB), Some(64 * MIB)).await.unwrap();
                announce(lab, pod, None, Some(128 * MIB)).await.unwrap();
            }
            (pod, own)
        },
        async |lab, (pod, own)| {
            for pod in [&pod, &own] {
                let info = pod_info(lab, pod).await;
                assert_eq!(info["overhead"]["memory"]["limit"], 16 * MIB, "{info}");
                assert_eq!(info["resources"]["memory"]["limit"], 128 * MIB, "{info}");
            }
            let cgroup = |info: serde_json::Value| info["cgroupParent"].as_str().unwrap().to_owned();
            assert_eq!(memory_limit(&cgroup(pod_info(lab, &own).await)), 144 * MIB);
            assert_ne!(memory_limit(&cgroup(pod_info(lab, &pod).await)), 144 * MIB, "kubelet's own");
            let error = announce(lab, &pod, Some(-7), None).await.unwrap_err();
            assert!(error.message().contains("overhead.memory_limit_in_bytes"), "{error}");
            assert_eq!(announce(lab, "ffff", None, None).await.unwrap_err().code(), tonic::Code::NotFound);
            let stop = proto::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
            lab.service.stop_pod_sandbox(Request::new(stop)).await.unwrap();
            let error = announce(lab, &pod, None, Some(MIB)).await.unwrap_err();
            assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
            lab.remove_pod(&pod).await;
            lab.remove_pod(&own).await;
            // The cgroup above the server's own pods goes a moment after the last of them.
            let begun = Instant::now();
            while !others && has_cgroup("crisp") {
                assert!(begun.elapsed() < Duration::from_secs(30), "/crisp stays");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        },
    );
}

/// Whether any hierarchy has the cgroup at its top.
fn has_cgroup(name: &str) -> bool {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    hierarchies.chain([root.to_owned()]).any(|hierarchy| hierarchy.join(name).exists())
}
