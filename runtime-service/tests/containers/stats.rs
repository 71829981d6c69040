//! Stats, limits and events.

use std::collections::BTreeMap;
use std::time::Duration;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tokio_stream::StreamExt;
use tonic::Request;

use crate::lab::{lab, resources, shell};

#[tokio::test]
async fn stats_are_the_kernels_counters() {
    let lab = lab!();
    let pod = lab.pod("stats").await;
    let mut config = shell("app", "dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; while :; do :; done");
    resources(&mut config).memory_limit_in_bytes = 64 << 20;
    let id = lab.run(&pod, config).await;
    let read = || async {
        let request = proto::ContainerStatsRequest { container_id: id.clone() };
        lab.service.container_stats(Request::new(request)).await.unwrap().into_inner().stats.unwrap()
    };
    let first = read().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let second = read().await;
    let (a, b) = (first.cpu.unwrap(), second.cpu.unwrap());
    assert!(b.usage_core_nano_seconds.unwrap().value > a.usage_core_nano_seconds.unwrap().value);
    assert!(b.usage_nano_cores.unwrap().value > 50_000_000, "{b:?}");
    let memory = second.memory.unwrap();
    assert!(memory.working_set_bytes.unwrap().value > 0);
    assert!(memory.available_bytes.unwrap().value <= 64 << 20);
    assert!(second.writable_layer.is_some());
    let request = proto::ListPodSandboxStatsRequest::default();
    let pods = lab.service.list_pod_sandbox_stats(Request::new(request)).await.unwrap().into_inner().stats;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].linux.as_ref().unwrap().containers.len(), 1);
    assert!(pods[0].linux.as_ref().unwrap().cpu.is_some());
    lab.remove_pod(&pod).await;
}

/// The metrics of the only pod and of its only container, by name.
async fn metrics(lab: &crate::lab::Lab) -> [BTreeMap<String, Vec<proto::Metric>>; 2] {
    let request = Request::new(proto::ListPodSandboxMetricsRequest {});
    let mut pods = lab.service.list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics;
    let request = Request::new(proto::StreamPodSandboxMetricsRequest {});
    let mut stream = lab.service.stream_pod_sandbox_metrics(request).await.unwrap().into_inner();
    let streamed = stream.next().await.unwrap().unwrap().pod_sandbox_metrics;
    assert_eq!((pods.len(), streamed.len()), (1, 1));
    let mut pod = pods.remove(0);
    assert_eq!(pod.pod_sandbox_id, streamed[0].pod_sandbox_id);
    let by_name = |list: Vec<proto::Metric>| {
        let mut map: BTreeMap<_, Vec<_>> = BTreeMap::new();
        list.into_iter().for_each(|metric| map.entry(metric.name.clone()).or_default().push(metric));
        map
    };
    [by_name(pod.metrics), by_name(pod.container_metrics.remove(0).metrics)]
}

#[tokio::test]
async fn metrics_of_pods_have_the_names_and_labels_of_cadvisor() {
    let lab = lab!();
    let pod = lab.pod("metrics").await;
    let mut config = shell("app", "exec 7</dev/null; while :; do :; done");
    resources(&mut config).memory_limit_in_bytes = 64 << 20;
    resources(&mut config).cpu_quota = 10_000;
    resources(&mut config).cpu_period = 100_000;
    let id = lab.run(&pod, config).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let request = Request::new(proto::ListMetricDescriptorsRequest {});
    let descriptors = lab.service.list_metric_descriptors(request).await.unwrap().into_inner().descriptors;
    let keys: BTreeMap<_, _> = descriptors.into_iter().map(|one| (one.name, one.label_keys)).collect();
    let [of_pod, of_container] = metrics(&lab).await;
    for metric in of_pod.values().chain(of_container.values()).flatten() {
        assert_eq!(metric.label_values.len(), keys[&metric.name].len(), "{metric:?}");
    }
    let value = |name: &str| of_container[name][0].value.unwrap().value;
    assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
    assert_eq!(value("container_spec_cpu_quota"), 10_000);
    assert!(value("container_cpu_cfs_throttled_periods_total") > 0);
    assert_eq!((value("container_processes"), value("container_threads")), (1, 1));
    assert!(value("container_file_descriptors") >= 4);
    assert!(value("container_memory_working_set_bytes") > 0);
    let usage = &of_container["container_cpu_usage_seconds_total"][0];
    let labels: BTreeMap<_, _> = keys[&usage.name].iter().zip(&usage.label_values).collect();
    assert_eq!((labels[&"container".to_owned()].as_str(), labels[&"name".to_owned()]), ("app", &id));
    let page = lab.metrics.pods_text();
    let line =
        page.lines().find(|line| line.starts_with("container_cpu_usage_seconds_total{container=\"app\""));
    let line = line.unwrap_or_else(|| panic!("{page}"));
    let seconds: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((0.04..1.2).contains(&seconds) && line.contains("cpu=\"total\"}"), "{line}");
    lab.remove_pod(&pod).await;
    let page = lab.metrics.pods_text();
    assert_eq!(page, "", "a series outlives its pod");
}

#[tokio::test]
async fn limits_can_be_changed_while_it_runs() {
    let lab = lab!();
    let pod = lab.pod("limits").await;
    let mut config = shell("app", "sleep 100");
    resources(&mut config).memory_limit_in_bytes = 64 << 20;
    resources(&mut config).cpu_shares = 512;
    let id = lab.run(&pod, config).await;
    let linux = proto::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() };
    let request = proto::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    lab.service.update_container_resources(Request::new(request)).await.unwrap();
    let now = lab.status(&id).await.unwrap().resources.unwrap().linux.unwrap();
    assert_eq!((now.memory_limit_in_bytes, now.cpu_shares), (32 << 20, 512));
    let request = proto::ContainerStatsRequest { container_id: id.clone() };
    let stats = lab.service.container_stats(Request::new(request)).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().available_bytes.unwrap().value <= 32 << 20);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn events_come_in_order() {
    let lab = lab!();
    let mut events = lab
        .service
        .get_container_events(Request::new(proto::GetEventsRequest {}))
        .await
        .unwrap()
        .into_inner();
    let pod = lab.pod("events").await;
    let id = lab.run(&pod, shell("app", "true")).await;
    lab.exited(&id).await;
    lab.remove_pod(&pod).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&(pod.clone(), 3)) {
        let event =
            tokio::time::timeout(Duration::from_secs(5), events.next()).await.unwrap().unwrap().unwrap();
        seen.push((event.container_id, event.container_event_type));
    }
    let of =
        |what: &String| seen.iter().filter(|(i, _)| i == what).map(|(_, kind)| *kind).collect::<Vec<_>>();
    assert_eq!(of(&id), [0, 1, 2, 3]);
    assert_eq!(of(&pod), [0, 1, 2, 3]);
}

/// Exits arrive on other threads than the responses to starts, stops and removals.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_event_is_sent_once_however_short_a_container_lives() {
    let lab = std::sync::Arc::new(lab!());
    let mut events = lab
        .service
        .get_container_events(Request::new(proto::GetEventsRequest {}))
        .await
        .unwrap()
        .into_inner();
    let pod = lab.pod("short").await;
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..4 {
        let (lab, pod) = (lab.clone(), pod.clone());
        clients.spawn(async move {
            let mut ids = Vec::new();
            for number in 0..8 {
                let id = lab.run(&pod, shell(&format!("c{client}-{number}"), "true")).await;
                if number % 2 == 0 {
                    lab.stop(&id, 0).await.unwrap();
                }
                lab.remove(&id).await.unwrap();
                ids.push(id);
            }
            ids
        });
    }
    let ids: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    lab.remove_pod(&pod).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&(pod.clone(), 3)) {
        let event =
            tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap().unwrap();
        seen.push((event.container_id, event.container_event_type));
    }
    for id in ids {
        let of: Vec<i32> = seen.iter().filter(|(i, _)| *i == id).map(|(_, kind)| *kind).collect();
        assert_eq!(of, [0, 1, 2, 3], "{id}");
    }
}

#[tokio::test]
async fn containers_are_counted_by_state() {
    let lab = lab!();
    let pod = lab.pod("gauges").await;
    let id = lab.run(&pod, shell("app", "sleep 100")).await;
    lab.sh(&id, "true").await;
    let page = lab.metrics.text();
    assert!(page.contains("crisp_containers{state=\"running\"} 1"), "{page}");
    assert!(page.contains("crisp_pods{state=\"ready\"} 1"), "{page}");
    assert!(page.contains("crisp_exec_duration_seconds_count{outcome=\"exited\"} 1"), "{page}");
    lab.remove_pod(&pod).await;
}
