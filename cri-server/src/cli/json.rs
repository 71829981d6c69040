//! Lists and details as JSON, with the field names that crictl's users know.

use crisp_proto::runtime::v1::{
    Container, ContainerStats, ContainerStatus, Image, ImageSpec, Mount, PodSandbox, PodSandboxMetadata,
    PodSandboxStatus,
};
use serde_json::{Map, Value, json};

/// Prints it with indentation and a line's end.
pub fn print(value: &Value) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// An entry of a list of containers.
pub fn container(c: &Container) -> Value {
    json!({
        "id": c.id,
        "podSandboxId": c.pod_sandbox_id,
        "metadata": c.metadata.as_ref().map(|m| json!({ "name": m.name, "attempt": m.attempt })),
        "image": c.image.as_ref().map(image_spec),
        "imageRef": c.image_ref,
        "imageId": c.image_id,
        "state": c.state().as_str_name(),
        "createdAt": c.created_at,
        "labels": c.labels,
        "annotations": c.annotations,
    })
}

/// An entry of a list of pods.
pub fn pod(p: &PodSandbox, addresses: &[String]) -> Value {
    json!({
        "id": p.id,
        "metadata": p.metadata.as_ref().map(pod_metadata),
        "state": p.state().as_str_name(),
        "createdAt": p.created_at,
        "ips": addresses,
        "labels": p.labels,
        "annotations": p.annotations,
        "runtimeHandler": p.runtime_handler,
    })
}

/// An image.
pub fn image(i: &Image) -> Value {
    json!({
        "id": i.id,
        "repoTags": i.repo_tags,
        "repoDigests": i.repo_digests,
        "size": i.size,
        "uid": i.uid.as_ref().map(|u| u.value),
        "username": i.username,
        "pinned": i.pinned,
    })
}

/// One container's state.
pub fn container_status(s: &ContainerStatus) -> Value {
    json!({
        "id": s.id,
        "metadata": s.metadata.as_ref().map(|m| json!({ "name": m.name, "attempt": m.attempt })),
        "state": s.state().as_str_name(),
        "createdAt": s.created_at,
        "startedAt": s.started_at,
        "finishedAt": s.finished_at,
        "exitCode": s.exit_code,
        "reason": s.reason,
        "message": s.message,
        "image": s.image.as_ref().map(image_spec),
        "imageRef": s.image_ref,
        "imageId": s.image_id,
        "labels": s.labels,
        "annotations": s.annotations,
        "mounts": s.mounts.iter().map(mount).collect::<Vec<_>>(),
        "logPath": s.log_path,
        "stopSignal": s.stop_signal().as_str_name(),
        "resources": s.resources.as_ref().and_then(|r| r.linux.as_ref()).map(|l| json!({
            "cpuPeriod": l.cpu_period,
            "cpuQuota": l.cpu_quota,
            "cpuShares": l.cpu_shares,
            "memoryLimitInBytes": l.memory_limit_in_bytes,
            "oomScoreAdj": l.oom_score_adj,
            "cpusetCpus": l.cpuset_cpus,
            "cpusetMems": l.cpuset_mems,
            "unified": l.unified,
        })),
        "user": s.user.as_ref().and_then(|u| u.linux.as_ref()).map(|l| json!({
            "uid": l.uid, "gid": l.gid, "supplementalGroups": l.supplemental_groups,
        })),
    })
}

/// One pod's state.
pub fn pod_status(s: &PodSandboxStatus) -> Value {
    let namespaces = s.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref());
    json!({
        "id": s.id,
        "metadata": s.metadata.as_ref().map(pod_metadata),
        "state": s.state().as_str_name(),
        "createdAt": s.created_at,
        "network": s.network.as_ref().map(|n| json!({
            "ip": n.ip,
            "additionalIps": n.additional_ips.iter().map(|i| &i.ip).collect::<Vec<_>>(),
        })),
        "namespaces": namespaces.map(|n| json!({
            "network": n.network().as_str_name(),
            "pid": n.pid().as_str_name(),
            "ipc": n.ipc().as_str_name(),
        })),
        "labels": s.labels,
        "annotations": s.annotations,
        "runtimeHandler": s.runtime_handler,
    })
}

/// One container's figures.
pub fn stats(s: &ContainerStats) -> Value {
    let value = |v: Option<&crisp_proto::runtime::v1::UInt64Value>| v.map(|v| v.value);
    json!({
        "id": s.attributes.as_ref().map(|a| &a.id),
        "name": s.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map(|m| &m.name),
        "cpu": s.cpu.as_ref().map(|c| json!({
            "timestamp": c.timestamp,
            "usageCoreNanoSeconds": value(c.usage_core_nano_seconds.as_ref()),
            "usageNanoCores": value(c.usage_nano_cores.as_ref()),
        })),
        "memory": s.memory.as_ref().map(|m| json!({
            "timestamp": m.timestamp,
            "workingSetBytes": value(m.working_set_bytes.as_ref()),
            "availableBytes": value(m.available_bytes.as_ref()),
            "usageBytes": value(m.usage_bytes.as_ref()),
            "rssBytes": value(m.rss_bytes.as_ref()),
            "pageFaults": value(m.page_faults.as_ref()),
            "majorPageFaults": value(m.major_page_faults.as_ref()),
        })),
        "writableLayer": s.writable_layer.as_ref().map(|w| json!({
            "timestamp": w.timestamp,
            "usedBytes": value(w.used_bytes.as_ref()),
            "inodesUsed": value(w.inodes_used.as_ref()),
        })),
    })
}

/// The free-form part of a verbose reply: values that are JSON are shown as such.
pub fn info<'a>(info: impl IntoIterator<Item = (&'a String, &'a String)>) -> Value {
    let value = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
    Value::Object(info.into_iter().map(|(key, text)| (key.clone(), value(text))).collect::<Map<_, _>>())
}

fn image_spec(spec: &ImageSpec) -> Value {
    json!({ "image": spec.image, "userSpecifiedImage": spec.user_specified_image })
}

fn pod_metadata(m: &PodSandboxMetadata) -> Value {
    json!({ "name": m.name, "uid": m.uid, "namespace": m.namespace, "attempt": m.attempt })
}

fn mount(m: &Mount) -> Value {
    json!({
        "containerPath": m.container_path,
        "hostPath": m.host_path,
        "readonly": m.readonly,
        "propagation": m.propagation().as_str_name(),
    })
}
