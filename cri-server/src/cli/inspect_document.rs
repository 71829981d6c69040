//! Containers, pods and images under the field names that docker's users type into templates.

use crisp_proto::crisp::v1::ContainerDetails;
use crisp_proto::runtime::v1::{ContainerState, ContainerStatus, Image};
use serde_json::{Value, json};

use super::port::published;
use crate::time::shown;

/// `info`: the free-form part of the container's status. `pod`: status and info of its pod, while that exists.
pub fn container_document(
    status: &ContainerStatus,
    info: &Value,
    details: Option<&ContainerDetails>,
    pod: Option<&Value>,
) -> Value {
    let info = &info["info"];
    let spec = &info["runtimeSpec"];
    let image = status.image.as_ref();
    let metadata = status.metadata.clone().unwrap_or_default();
    json!({
        "Id": status.id,
        "Name": metadata.name,
        "Created": shown(status.created_at),
        "Image": status.image_id,
        "ImageName": image.map_or("", |image| &image.image),
        "Path": details.and_then(|d| d.command.first()),
        "Args": details.map_or(&[][..], |d| d.command.get(1..).unwrap_or_default()),
        "State": state(status, details),
        "RestartCount": metadata.attempt,
        "LogPath": status.log_path,
        "Mounts": status.mounts.iter().map(|mount| json!({
            "Type": if mount.image.is_some() { "image" } else { "bind" },
            "Source": mount.host_path,
            "Destination": mount.container_path,
            "RW": !mount.readonly,
            "Propagation": mount.propagation().as_str_name().trim_start_matches("PROPAGATION_").to_lowercase(),
        })).collect::<Vec<_>>(),
        "Config": {
            "Image": image.map_or("", |image| &image.user_specified_image),
            "Cmd": details.map_or(&[][..], |d| &d.command),
            "Env": spec["process"]["env"],
            "WorkingDir": spec["process"]["cwd"],
            "User": format!("{}:{}", spec["process"]["user"]["uid"], spec["process"]["user"]["gid"]),
            "Tty": spec["process"]["terminal"] == json!(true),
            "Labels": status.labels,
        },
        "HostConfig": host_config(status, spec),
        "NetworkSettings": network(pod),
        "Pod": pod.map(|pod| pod["status"]["metadata"]["name"].clone()),
        "PodId": info["sandboxID"],
    })
}

fn state(status: &ContainerStatus, details: Option<&ContainerDetails>) -> Value {
    let is_running = status.state() == ContainerState::ContainerRunning;
    let is_paused = is_running && details.is_some_and(|d| d.paused);
    let word = match status.state() {
        ContainerState::ContainerCreated => "created",
        ContainerState::ContainerRunning if is_paused => "paused",
        ContainerState::ContainerRunning => "running",
        ContainerState::ContainerExited => "exited",
        ContainerState::ContainerUnknown => "unknown",
    };
    json!({
        "Status": word,
        "Running": is_running,
        "Paused": is_paused,
        "OOMKilled": status.reason == "OOMKilled",
        "Pid": details.map_or(0, |d| d.pid),
        "ExitCode": status.exit_code,
        "Error": status.message,
        "StartedAt": shown(status.started_at),
        "FinishedAt": shown(status.finished_at),
    })
}

fn host_config(status: &ContainerStatus, spec: &Value) -> Value {
    let limits = status.resources.as_ref().and_then(|resources| resources.linux.clone()).unwrap_or_default();
    json!({
        "Memory": limits.memory_limit_in_bytes,
        "MemorySwap": limits.memory_swap_limit_in_bytes,
        "CpuQuota": limits.cpu_quota,
        "CpuPeriod": limits.cpu_period,
        "CpuShares": limits.cpu_shares,
        "CpusetCpus": limits.cpuset_cpus,
        "ReadonlyRootfs": spec["root"]["readonly"] == json!(true),
        "OomScoreAdj": limits.oom_score_adj,
    })
}

fn network(pod: Option<&Value>) -> Value {
    let status = pod.map_or(&Value::Null, |pod| &pod["status"]["network"]);
    let ports = pod.map_or_else(Vec::new, |pod| published(&pod["info"]["info"]));
    json!({ "IPAddress": status["ip"].as_str().unwrap_or_default(), "Ports": ports })
}

/// `pod`: its status and info.
pub fn pod_document(pod: &Value) -> Value {
    let status = &pod["status"];
    json!({
        "Id": status["id"],
        "Name": status["metadata"]["name"],
        "Namespace": status["metadata"]["namespace"],
        "Created": shown(status["createdAt"].as_i64().unwrap_or_default()),
        "State": status["state"].as_str().unwrap_or_default().trim_start_matches("SANDBOX_").to_lowercase(),
        "Labels": status["labels"],
        "NetworkSettings": network(Some(pod)),
    })
}

/// `info`: the free-form part of the image's status.
pub fn image_document(image: &Image, info: &Value) -> Value {
    let spec = &info["info"]["imageSpec"];
    json!({
        "Id": image.id,
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Size": image.size,
        "Created": spec["created"],
        "Architecture": spec["architecture"],
        "Os": spec["os"],
        "Author": spec["author"],
        "Config": spec["config"],
        "RootFS": { "Type": "layers", "Layers": spec["rootfs"]["diff_ids"] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_container_runs() {
        let status = ContainerStatus {
            state: ContainerState::ContainerRunning.into(),
            started_at: 1_000_000_000,
            ..ContainerStatus::default()
        };
        let details = ContainerDetails { pid: 7, paused: true, ..ContainerDetails::default() };
        let state = state(&status, Some(&details));
        assert_eq!((state["Status"].as_str(), &state["Running"]), (Some("paused"), &json!(true)));
        assert_eq!((&state["Pid"], &state["StartedAt"]), (&json!(7), &json!("1970-01-01T00:00:01Z")));
    }
}
