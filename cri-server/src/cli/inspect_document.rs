//! Containers, pods and images under the field names that docker's users type into templates.

use crisp_proto::crisp::v1::{ContainerDetails, NetworkMember, StandaloneCheck, StandaloneHealth};
use crisp_proto::runtime::v1::{ContainerState, ContainerStatus, Image};
use serde_json::{Value, json};

use super::port::bindings;
use crate::time::shown;

/// `info`: the free-form part of the container's status. `pod`: its pod, while that exists.
pub fn container_document(
    status: &ContainerStatus,
    info: &Value,
    details: Option<&ContainerDetails>,
    pod: Option<&PodParts>,
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
        "NetworkSettings": pod.map_or_else(no_network, network),
        "Pod": pod.map(|pod| pod.status["metadata"]["name"].clone()),
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

/// The health of a container that has checks.
pub fn health(health: &StandaloneHealth) -> Value {
    let check = |check: &StandaloneCheck| {
        json!({
            "Start": shown(check.began_at),
            "End": shown(check.ended_at),
            "ExitCode": i32::from(check.failure.is_some()),
            "Output": check.failure.as_deref().unwrap_or_default(),
        })
    };
    json!({
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": health.checks.iter().map(check).collect::<Vec<_>>(),
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

/// A pod's status and info, and its networks.
#[derive(Debug, Default)]
pub struct PodParts {
    pub status: Value,
    pub info: Value,
    /// The built-in networks that it is in, with its place there.
    pub networks: Vec<(String, NetworkMember)>,
}

fn network(pod: &PodParts) -> Value {
    let first = &pod.status["network"]["ip"];
    let named = pod.networks.iter().map(|(name, member)| (name.clone(), endpoint(member)));
    let mut networks: serde_json::Map<String, Value> = named.collect();
    if networks.is_empty() {
        let addresses: Vec<String> =
            first.as_str().filter(|ip| !ip.is_empty()).map(str::to_owned).into_iter().collect();
        networks.insert(
            network_kind(pod).to_owned(),
            endpoint(&NetworkMember { ips: addresses, ..Default::default() }),
        );
    }
    let main = pod.networks.iter().find(|(_, member)| member.interface == "eth0");
    let mut settings =
        main.map_or_else(|| endpoint(&NetworkMember::default()), |(_, member)| endpoint(member));
    settings["IPAddress"] = json!(first.as_str().unwrap_or_default());
    settings["Ports"] = bindings(&pod.info["info"]);
    settings["Networks"] = networks.into();
    settings
}

/// The name of the only network of a pod that is in no built-in one.
fn network_kind(pod: &PodParts) -> &'static str {
    if pod.status["linux"]["namespaces"]["options"]["network"] == json!("NODE") {
        return "host";
    }
    let asked = &pod.status["annotations"]["crisp/networks"];
    if *asked == json!("none") { "none" } else { "default" }
}

fn endpoint(member: &NetworkMember) -> Value {
    let of =
        |is_v6: bool| member.ips.iter().find(|ip| ip.contains(':') == is_v6).cloned().unwrap_or_default();
    json!({ "IPAddress": of(false), "GlobalIPv6Address": of(true), "MacAddress": member.mac })
}

fn no_network() -> Value {
    network(&PodParts::default())
}

/// The pod as a document.
pub fn pod_document(pod: &PodParts) -> Value {
    let status = &pod.status;
    json!({
        "Id": status["id"],
        "Name": status["metadata"]["name"],
        "Namespace": status["metadata"]["namespace"],
        "Created": shown(status["createdAt"].as_i64().unwrap_or_default()),
        "State": status["state"].as_str().unwrap_or_default().trim_start_matches("SANDBOX_").to_lowercase(),
        "Labels": status["labels"],
        "NetworkSettings": network(pod),
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
    fn networks_and_ports_have_the_shape_of_dockers() {
        let member = NetworkMember {
            interface: "eth0".into(),
            ips: vec!["10.1.0.5".into(), "fd00::5".into()],
            mac: "02:00:00:00:00:05".into(),
            ..NetworkMember::default()
        };
        let mut pod = PodParts {
            status: json!({ "network": { "ip": "10.1.0.5" } }),
            info: json!({ "info": { "config": { "port_mappings": [
                { "protocol": "tcp", "container_port": 80, "host_port": 8080 }] } } }),
            networks: vec![("lan".into(), member)],
        };
        let settings = network(&pod);
        assert_eq!(settings["Ports"]["80/tcp"][0]["HostPort"], "8080");
        assert_eq!(settings["Networks"]["lan"]["GlobalIPv6Address"], "fd00::5");
        assert_eq!(
            (&settings["IPAddress"], &settings["MacAddress"]),
            (&json!("10.1.0.5"), &json!("02:00:00:00:00:05"))
        );
        pod.networks.clear();
        assert_eq!(network(&pod)["Networks"]["default"]["IPAddress"], "10.1.0.5");
        pod.status = json!({ "linux": { "namespaces": { "options": { "network": "NODE" } } } });
        assert_eq!(network(&pod)["Networks"]["host"]["IPAddress"], "");
    }

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
