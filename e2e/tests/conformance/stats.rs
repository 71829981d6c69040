//! Stats of containers and pods, and metrics by the CRI.

use std::collections::BTreeMap;
use std::time::Duration;

use crisp_e2e::Result;
use k8s_cri::v1::{
    ContainerStats, ContainerStatsFilter, ContainerStatsRequest, LinuxContainerResources,
    ListContainerStatsRequest, ListContainerStatsResponse, ListMetricDescriptorsRequest,
    ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, ListPodSandboxStatsRequest,
    ListPodSandboxStatsResponse, PodSandboxStats, PodSandboxStatsFilter, PodSandboxStatsRequest, UInt64Value,
};
use prost::Message as _;
use tonic::Status;

use crate::cri::{Cri, unique, unknown};
use crate::newer;
use crate::resources::with_limits;

promises! {
    a_containers_stats_name_it: Cri, ["ContainerStats", "ContainerStatsRequest.container_id",
        "ContainerStatsResponse.stats", "ContainerStats.attributes", "ContainerAttributes.id",
        "ContainerAttributes.metadata", "ContainerAttributes.labels", "ContainerAttributes.annotations"],
        "A container's stats have its id, metadata, labels and annotations";
    cpu_time_is_counted: Kubernetes, ["ContainerStats.cpu", "CpuUsage.timestamp", "CpuUsage.usage_core_nano_seconds",
        "UInt64Value.value"],
        "The CPU time in a container's stats is what its processes used";
    cpu_cores_are_a_rate: Kubernetes, ["CpuUsage.usage_nano_cores"],
        "The cores in a container's stats are the rate of its CPU time";
    memory_is_counted: Kubernetes, ["ContainerStats.memory", "MemoryUsage.timestamp", "MemoryUsage.working_set_bytes",
        "MemoryUsage.usage_bytes", "MemoryUsage.rss_bytes", "MemoryUsage.page_faults", "MemoryUsage.major_page_faults"],
        "The memory in a container's stats has what its processes hold";
    available_memory_is_what_the_limit_leaves: Kubernetes, ["MemoryUsage.available_bytes"],
        "The available memory of a container with a limit is the limit less its working set";
    swap_is_counted: Kubernetes, ["ContainerStats.swap", "SwapUsage.timestamp", "SwapUsage.swap_usage_bytes"],
        "The swap in a container's stats is there, and 0 where nothing is swapped",
        containerd: "no swap";
    written_files_are_counted: Kubernetes, ["ContainerStats.writable_layer", "FilesystemUsage.timestamp",
        "FilesystemUsage.fs_id", "FilesystemUsage.used_bytes", "FilesystemUsage.inodes_used",
        "FilesystemIdentifier.mountpoint"],
        "What a container writes to its root file system is in its stats, in bytes and inodes";
    stats_of_no_container_are_an_error: Cri, ["ContainerStats"],
        "The stats of a container that does not exist are an error";
    stats_of_containers_are_filtered: Cri, ["ListContainerStats", "ListContainerStatsRequest.filter",
        "ListContainerStatsResponse.stats", "ContainerStatsFilter.id", "ContainerStatsFilter.pod_sandbox_id",
        "ContainerStatsFilter.label_selector"],
        "A list of stats by id, pod or labels has the stats of those containers alone";
    containers_that_ended_have_no_stats: Cri, ["ListContainerStats"],
        "A list of stats has running containers alone",
        crisp: "stats of an exited container",
        containerd: "stats of an exited container";
    a_pods_stats_name_it: Cri, ["PodSandboxStats", "PodSandboxStatsRequest.pod_sandbox_id",
        "PodSandboxStatsResponse.stats", "PodSandboxStats.attributes", "PodSandboxStats.linux",
        "PodSandboxAttributes.id", "PodSandboxAttributes.metadata", "PodSandboxAttributes.labels",
        "PodSandboxAttributes.annotations", "LinuxPodSandboxStats.containers"],
        "A pod's stats have its id, metadata, labels and annotations, and its containers' stats";
    a_pods_use_is_counted: Kubernetes, ["LinuxPodSandboxStats.cpu", "LinuxPodSandboxStats.memory",
        "LinuxPodSandboxStats.process", "ProcessUsage.timestamp", "ProcessUsage.process_count"],
        "A pod's CPU time, memory and processes are at least those of its containers";
    a_pods_traffic_is_counted: Kubernetes, ["LinuxPodSandboxStats.network", "NetworkUsage.timestamp",
        "NetworkUsage.default_interface", "NetworkInterfaceUsage.name", "NetworkInterfaceUsage.rx_bytes",
        "NetworkInterfaceUsage.tx_bytes", "NetworkInterfaceUsage.rx_errors", "NetworkInterfaceUsage.tx_errors"],
        "A pod's stats have what its interface received and sent";
    stats_of_no_pod_are_an_error: Cri, ["PodSandboxStats"],
        "The stats of a pod that does not exist are an error";
    stats_of_pods_are_filtered: Cri, ["ListPodSandboxStats", "ListPodSandboxStatsRequest.filter",
        "ListPodSandboxStatsResponse.stats", "PodSandboxStatsFilter.id", "PodSandboxStatsFilter.label_selector"],
        "A list of pods' stats by id or labels has the stats of those pods alone";
    every_metric_is_described: Cri, ["ListMetricDescriptors", "ListMetricDescriptorsResponse.descriptors",
        "MetricDescriptor.name", "MetricDescriptor.help", "MetricDescriptor.label_keys", "ListPodSandboxMetrics",
        "ListPodSandboxMetricsResponse.pod_metrics", "PodSandboxMetrics.pod_sandbox_id", "PodSandboxMetrics.metrics",
        "PodSandboxMetrics.container_metrics", "ContainerMetrics.container_id", "ContainerMetrics.metrics",
        "Metric.name", "Metric.label_values", "Metric.value"],
        "Each metric of a pod and its containers is among the described ones, with a value for each label";
    stats_are_streamed: Cri, ["StreamContainerStats", "StreamContainerStatsRequest.filter",
        "StreamContainerStatsResponse.container_stats", "StreamPodSandboxStats",
        "StreamPodSandboxStatsRequest.filter", "StreamPodSandboxStatsResponse.pod_sandbox_stats"],
        "StreamContainerStats and StreamPodSandboxStats send what the lists have, with the same filters";
    metrics_are_streamed: Cri, ["StreamPodSandboxMetrics", "StreamPodSandboxMetricsResponse.pod_sandbox_metrics"],
        "StreamPodSandboxMetrics sends the metrics of the pods that ListPodSandboxMetrics lists";
}

fn value(field: Option<UInt64Value>) -> u64 {
    field.map_or(0, |field| field.value)
}

async fn stats(cri: &mut Cri, id: &str) -> Result<ContainerStats> {
    let request = ContainerStatsRequest { container_id: id.into() };
    let answer = cri.client.runtime.container_stats(request).await?.into_inner();
    answer.stats.ok_or_else(|| "no stats in the answer".into())
}

async fn pod_stats(cri: &mut Cri, id: &str) -> Result<PodSandboxStats, Status> {
    let request = PodSandboxStatsRequest { pod_sandbox_id: id.into() };
    let answer = cri.client.runtime.pod_sandbox_stats(request).await?.into_inner();
    answer.stats.ok_or_else(|| Status::internal("no stats in the answer"))
}

async fn a_containers_stats_name_it(cri: &mut Cri) -> Result<()> {
    let mut config = cri.shell("exec sleep 1000");
    config.labels.insert("tier".into(), "web".into());
    config.annotations.insert("example.org/x".into(), "y".into());
    let (_pod, id) = cri.running_as(&config).await?;
    let is = stats(cri, &id).await?.attributes.ok_or("no attributes")?;
    assert_eq!((&is.id, &is.metadata), (&id, &config.metadata));
    assert_eq!((&is.labels, &is.annotations), (&config.labels, &config.annotations));
    Ok(())
}

async fn cpu_time_is_counted(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let used = async |cri: &mut Cri| -> Result<(i64, u64)> {
        let cpu = stats(cri, &id).await?.cpu.ok_or("no CPU")?;
        Ok((cpu.timestamp, value(cpu.usage_core_nano_seconds)))
    };
    let (then, before) = used(cri).await?;
    // About half a second of CPU time, by the process's own count.
    cri.sh(&id, "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; cat /proc/$$/stat").await?;
    let line = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; cat /proc/$$/schedstat";
    let own: u64 = cri.sh(&id, line).await?.split(' ').next().ok_or("no time")?.parse()?;
    let (now, after) = used(cri).await?;
    assert!(then > 0 && now > then, "{then} {now}");
    // Twice the work, and the CPU time of the runtime for the commands.
    assert!(after - before >= own && after - before < 10 * own, "{own} of {}", after - before);
    Ok(())
}

async fn cpu_cores_are_a_rate(cri: &mut Cri) -> Result<()> {
    let config = cri.shell("while true; do :; done");
    let (pod, id) = cri.running_as(&config).await?;
    let mut cores = 0;
    // A rate needs two measurements, and a runtime may make them at its own pace.
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let filter = Some(ContainerStatsFilter { id: id.clone(), ..Default::default() });
        let request = ListContainerStatsRequest { filter };
        let list = cri.client.runtime.list_container_stats(request).await?.into_inner().stats;
        let cpu = list.into_iter().next().and_then(|stats| stats.cpu);
        cores = value(cpu.and_then(|cpu| cpu.usage_nano_cores));
        if cores > 0 {
            break;
        }
    }
    cri.remove_pod(&pod.id).await?;
    assert!((20_000_000..1_500_000_000).contains(&cores), "{cores} nanocores");
    Ok(())
}

async fn memory_is_counted(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    // This command holds 20 MB for a while.
    let mut client = cri.client.clone();
    let container = id.clone();
    let line = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); touch /held; until test -e /enough; do sleep 0.05; done; echo ${#x}";
    let command = tokio::spawn(async move { client.exec(&container, &["sh", "-c", line]).await });
    cri.until(&id, "test -e /held").await?;
    let memory = stats(cri, &id).await?.memory.ok_or("no memory")?;
    cri.sh(&id, "touch /enough").await?;
    command.await??;
    assert!(memory.timestamp > 0, "{memory:?}");
    for used in [memory.working_set_bytes, memory.usage_bytes, memory.rss_bytes] {
        assert!((20_000_000..200_000_000).contains(&value(used)), "{memory:?}");
    }
    assert!(value(memory.page_faults) > 1000 && memory.major_page_faults.is_some(), "{memory:?}");
    Ok(())
}

async fn available_memory_is_what_the_limit_leaves(cri: &mut Cri) -> Result<()> {
    let limit = 64 << 20;
    let resources = LinuxContainerResources { memory_limit_in_bytes: limit, ..Default::default() };
    let id = with_limits(cri, resources).await?;
    let memory = stats(cri, &id).await?.memory.ok_or("no memory")?;
    let sum = value(memory.available_bytes) + value(memory.working_set_bytes);
    assert_eq!(i64::try_from(sum)?, limit, "{memory:?}");
    Ok(())
}

async fn swap_is_counted(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let swap = stats(cri, &id).await?.swap.ok_or("no swap")?;
    assert!(swap.timestamp > 0 && swap.swap_usage_bytes == Some(UInt64Value { value: 0 }), "{swap:?}");
    Ok(())
}

async fn written_files_are_counted(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    cri.sh(&id, "head -c 5000000 /dev/zero > /blob; mkdir /d; touch /d/1 /d/2 /d/3; sync").await?;
    let mut layer = None;
    // A runtime may measure at its own pace.
    for _ in 0..60 {
        layer = stats(cri, &id).await?.writable_layer;
        if layer.as_ref().is_some_and(|layer| value(layer.used_bytes) >= 5_000_000) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let layer = layer.ok_or("no writable layer")?;
    assert!((5_000_000..6_000_000).contains(&value(layer.used_bytes)), "{layer:?}");
    assert!((5..20).contains(&value(layer.inodes_used)), "{layer:?}");
    let mountpoint = layer.fs_id.map(|id| id.mountpoint).unwrap_or_default();
    assert!(layer.timestamp > 0 && std::path::Path::new(&mountpoint).is_dir(), "{mountpoint:?}");
    Ok(())
}

async fn stats_of_no_container_are_an_error(cri: &mut Cri) -> Result<()> {
    assert!(stats(cri, &unknown()).await.is_err());
    Ok(())
}

async fn listed(cri: &mut Cri, filter: ContainerStatsFilter) -> Result<Vec<String>> {
    let request = ListContainerStatsRequest { filter: Some(filter) };
    let list = cri.client.runtime.list_container_stats(request).await?.into_inner().stats;
    Ok(list.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect())
}

async fn stats_of_containers_are_filtered(cri: &mut Cri) -> Result<()> {
    let run = unique("run");
    let mut config = cri.shell("exec sleep 1000");
    config.labels.insert("run".into(), run.clone());
    let (pod, one) = cri.running_as(&config).await?;
    let other = cri.shell("exec sleep 1000");
    let other = cri.launch(&pod, &other).await?;
    let (_elsewhere, _) = cri.running().await?;
    let by_id = ContainerStatsFilter { id: one.clone(), ..Default::default() };
    assert_eq!(listed(cri, by_id).await?, std::slice::from_ref(&one));
    let label_selector = [("run".to_owned(), run)].into();
    let by_label = ContainerStatsFilter { label_selector, ..Default::default() };
    assert_eq!(listed(cri, by_label).await?, std::slice::from_ref(&one));
    let mut both = listed(cri, ContainerStatsFilter { pod_sandbox_id: pod.id, ..Default::default() }).await?;
    let mut expected = [one, other];
    both.sort();
    expected.sort();
    assert_eq!(both, expected);
    Ok(())
}

async fn containers_that_ended_have_no_stats(cri: &mut Cri) -> Result<()> {
    let (pod, running) = cri.running().await?;
    let config = cri.shell("true");
    cri.end(&pod, &config).await?;
    let in_pod = ContainerStatsFilter { pod_sandbox_id: pod.id, ..Default::default() };
    let ids = listed(cri, in_pod).await?;
    assert!(ids.contains(&running), "{ids:?}");
    assert!(ids.len() == 1, "stats of an exited container: {ids:?}");
    Ok(())
}

async fn a_pods_stats_name_it(cri: &mut Cri) -> Result<()> {
    let mut config = cri.sandbox();
    config.labels.insert("tier".into(), "web".into());
    config.annotations.insert("example.org/x".into(), "y".into());
    let pod = cri.run(&config).await?;
    let container = cri.shell("exec sleep 1000");
    let id = cri.launch(&pod, &container).await?;
    let stats = pod_stats(cri, &pod.id).await?;
    let is = stats.attributes.ok_or("no attributes")?;
    assert_eq!((&is.id, &is.metadata), (&pod.id, &config.metadata));
    assert_eq!((&is.labels, &is.annotations), (&config.labels, &config.annotations));
    let containers = stats.linux.ok_or("nothing for Linux")?.containers;
    let ids: Vec<_> = containers.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect();
    assert_eq!(ids, [id]);
    Ok(())
}

async fn a_pods_use_is_counted(cri: &mut Cri) -> Result<()> {
    let (pod, id) = cri.running().await?;
    cri.sh(&id, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done").await?;
    let own = stats(cri, &id).await?;
    let linux = pod_stats(cri, &pod.id).await?.linux.ok_or("nothing for Linux")?;
    let pods = value(linux.cpu.and_then(|cpu| cpu.usage_core_nano_seconds));
    let containers = value(own.cpu.and_then(|cpu| cpu.usage_core_nano_seconds));
    assert!(containers > 0 && pods >= containers, "{pods} of {containers}");
    assert!(value(linux.memory.and_then(|memory| memory.working_set_bytes)) > 0);
    let process = linux.process.ok_or("no processes")?;
    assert!(process.timestamp > 0 && value(process.process_count) >= 1, "{process:?}");
    Ok(())
}

async fn a_pods_traffic_is_counted(cri: &mut Cri) -> Result<()> {
    let config = cri.shell("mkdir /w; head -c 300000 /dev/zero > /w/blob; exec httpd -f -p 80 -h /w");
    let (server, _) = cri.running_as(&config).await?;
    let address = cri.pod_status(&server.id).await?.network.ok_or("no network")?.ip;
    let (client, id) = cri.running().await?;
    cri.until(&id, &format!("wget -q -O /dev/null http://{address}/blob")).await?;
    for (pod, sends) in [(server, true), (client, false)] {
        let network = pod_stats(cri, &pod.id).await?.linux.and_then(|linux| linux.network);
        let network = network.ok_or("no network")?;
        let interface = network.default_interface.ok_or("no default interface")?;
        let much = if sends { &interface.tx_bytes } else { &interface.rx_bytes };
        assert!((300_000..2_000_000).contains(&value(*much)), "{interface:?}");
        assert_eq!((interface.name.as_str(), value(interface.rx_errors)), ("eth0", 0));
        assert!(network.timestamp > 0 && value(interface.tx_errors) == 0);
    }
    Ok(())
}

async fn stats_of_no_pod_are_an_error(cri: &mut Cri) -> Result<()> {
    assert!(pod_stats(cri, &unknown()).await.is_err());
    Ok(())
}

async fn stats_of_pods_are_filtered(cri: &mut Cri) -> Result<()> {
    let run = unique("run");
    let mut config = cri.sandbox();
    config.labels.insert("run".into(), run.clone());
    let (one, _other) = (cri.run(&config).await?, cri.pod().await?);
    for filter in [
        PodSandboxStatsFilter { id: one.id.clone(), ..Default::default() },
        PodSandboxStatsFilter { label_selector: [("run".to_owned(), run)].into(), ..Default::default() },
    ] {
        let request = ListPodSandboxStatsRequest { filter: Some(filter) };
        let list = cri.client.runtime.list_pod_sandbox_stats(request).await?.into_inner().stats;
        let ids: Vec<_> = list.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect();
        assert_eq!(ids, std::slice::from_ref(&one.id));
    }
    Ok(())
}

async fn every_metric_is_described(cri: &mut Cri) -> Result<()> {
    let (pod, id) = cri.running().await?;
    let runtime = &mut cri.client.runtime;
    let descriptors =
        runtime.list_metric_descriptors(ListMetricDescriptorsRequest {}).await?.into_inner().descriptors;
    assert!(descriptors.iter().all(|descriptor| !descriptor.help.is_empty()));
    let keys: BTreeMap<&str, usize> =
        descriptors.iter().map(|one| (one.name.as_str(), one.label_keys.len())).collect();
    let list =
        runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await?.into_inner().pod_metrics;
    let metrics = list.into_iter().find(|one| one.pod_sandbox_id == pod.id).ok_or("no metrics of the pod")?;
    let own =
        metrics.container_metrics.iter().find(|one| one.container_id == id).ok_or("none of the container")?;
    assert!(own.metrics.iter().any(|metric| metric.name == "container_cpu_usage_seconds_total"));
    for metric in metrics.metrics.iter().chain(&own.metrics) {
        assert_eq!(keys.get(metric.name.as_str()), Some(&metric.label_values.len()), "{metric:?}");
        assert!(metric.value.is_some(), "{metric:?}");
    }
    Ok(())
}

async fn stats_are_streamed(cri: &mut Cri) -> Result<()> {
    let (pod, id) = cri.running().await?;
    let (_other, _) = cri.running().await?;
    let filter = Some(ContainerStatsFilter { id: id.clone(), ..Default::default() });
    let request = ListContainerStatsRequest { filter }.encode_to_vec();
    let containers: ListContainerStatsResponse =
        newer::joined(&cri.client, "RuntimeService", "StreamContainerStats", request).await?;
    let ids: Vec<_> = containers.stats.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect();
    assert_eq!(ids, [id]);
    let filter = Some(PodSandboxStatsFilter { id: pod.id.clone(), ..Default::default() });
    let request = ListPodSandboxStatsRequest { filter }.encode_to_vec();
    let pods: ListPodSandboxStatsResponse =
        newer::joined(&cri.client, "RuntimeService", "StreamPodSandboxStats", request).await?;
    let ids: Vec<_> = pods.stats.into_iter().filter_map(|stats| Some(stats.attributes?.id)).collect();
    assert_eq!(ids, [pod.id]);
    Ok(())
}

async fn metrics_are_streamed(cri: &mut Cri) -> Result<()> {
    let (pod, id) = cri.running().await?;
    let streamed: ListPodSandboxMetricsResponse =
        newer::joined(&cri.client, "RuntimeService", "StreamPodSandboxMetrics", Vec::new()).await?;
    let own =
        streamed.pod_metrics.iter().find(|one| one.pod_sandbox_id == pod.id).ok_or("none of the pod")?;
    assert!(own.container_metrics.iter().any(|one| one.container_id == id && !one.metrics.is_empty()));
    Ok(())
}
