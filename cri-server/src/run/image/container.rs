//! The only container of the pod, as an entry of a manifest.

use anyhow::bail;
use serde_json::{Map, Value, json};

use super::super::manifest::{Device, Extra};
use super::gpus::gpus;
use super::mounts::MountOption;
use super::options::Options;
use super::{Wanted, ports, security, ulimits, variables};

/// The default interval of docker's health checks, in seconds.
const CHECK: u64 = 30;
/// The volume at /dev/shm.
const SHM: &str = "shm";

/// The entry of `containers`.
///
/// # Errors
/// A value is not valid; the error names its option.
pub fn container(wanted: &Wanted<'_>, name: &str, mounts: &[&MountOption]) -> anyhow::Result<Value> {
    let options = wanted.options;
    let mut container = json!({
        "name": name,
        "image": wanted.image,
        "imagePullPolicy": options.pull_policy(),
        "env": environment(options)?,
        "ports": published(wanted)?,
        "volumeMounts": mount_entries(mounts, options.limits.shm_size.is_some()),
        "resources": resources(options),
        "securityContext": security::of_container(options)?,
        "stdin": options.interactive,
        "stdinOnce": options.interactive && !wanted.is_detached,
        "tty": options.tty,
    });
    command(wanted, &mut container);
    if let Some(dir) = &options.workdir {
        if !dir.starts_with('/') {
            bail!("--workdir {dir:?} must be an absolute path");
        }
        container["workingDir"] = json!(dir);
    }
    if let Some(signal) = &options.stop_signal {
        container["lifecycle"] = json!({ "stopSignal": signal });
    }
    if let Some(probe) = probe(options)? {
        container["readinessProbe"] = probe;
    }
    Ok(container)
}

/// Escapes words that are taken literally: `$(NAME)` has a meaning in a manifest.
fn verbatim(words: &[String]) -> Vec<String> {
    words.iter().map(|word| word.replace('$', "$$")).collect()
}

fn command(wanted: &Wanted<'_>, container: &mut Value) {
    let words = verbatim(wanted.command);
    match wanted.options.entrypoint.as_deref() {
        None => container["args"] = json!(words),
        // Without the image's ENTRYPOINT, the command is the program.
        Some("") => container["command"] = json!(words),
        Some(program) => {
            container["command"] = json!(verbatim(&[program.to_owned()]));
            container["args"] = json!(words);
        }
    }
}

fn environment(options: &Options) -> anyhow::Result<Vec<Value>> {
    let own = |name: &str| std::env::var(name).ok();
    let all = variables::variables(&options.env_file, &options.env, own)?;
    let entry = |(name, value): (String, String)| json!({ "name": name, "value": value.replace('$', "$$") });
    Ok(all.into_iter().map(entry).collect())
}

fn published(wanted: &Wanted<'_>) -> anyhow::Result<Vec<Value>> {
    let Options { publish, publish_all, expose, .. } = wanted.options;
    let mut all = Vec::new();
    for ports in publish {
        all.extend(ports.entries(true)?);
    }
    let exposed = wanted.exposed.iter().map(|text| ports::expose(text).map_err(anyhow::Error::msg));
    for ports in exposed.collect::<anyhow::Result<Vec<_>>>()?.iter().chain(expose) {
        for entry in ports.entries(*publish_all)? {
            let same =
                |other: &Value| ["containerPort", "protocol"].iter().all(|key| other[key] == entry[key]);
            if !all.iter().any(same) {
                all.push(entry);
            }
        }
    }
    Ok(all)
}

/// The entries of `volumes`.
pub fn volumes(mounts: &[&MountOption], options: &Options) -> Vec<Value> {
    let shm = options.limits.shm_size.map(
        |size| json!({ "name": SHM, "emptyDir": { "medium": "Memory", "sizeLimit": size.to_string() } }),
    );
    let named = mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| mount.volume_entry(&volume_name(index), options.pull_policy()));
    named.chain(shm).collect()
}

fn mount_entries(mounts: &[&MountOption], with_shm: bool) -> Vec<Value> {
    let shm = with_shm.then(|| json!({ "name": SHM, "mountPath": "/dev/shm" }));
    let named = mounts.iter().enumerate().map(|(index, mount)| mount.mount_entry(&volume_name(index)));
    named.chain(shm).collect()
}

fn volume_name(index: usize) -> String {
    format!("volume-{index}")
}

fn resources(options: &Options) -> Value {
    let mut limits = Map::new();
    if let Some(bytes) = options.limits.memory {
        limits.insert("memory".to_owned(), json!(bytes.to_string()));
    }
    if let Some(milli) = options.limits.cpus {
        limits.insert("cpu".to_owned(), json!(format!("{milli}m")));
    }
    json!({ "limits": limits })
}

/// A health check reports the container's condition and does not end it, like a readinessProbe.
fn probe(options: &Options) -> anyhow::Result<Option<Value>> {
    let Some(line) = &options.health_cmd else { return Ok(None) };
    let seconds = |option: &str, value: Option<std::time::Duration>| match value.map(|value| value.as_secs())
    {
        Some(0) => bail!("{option}: expected at least 1s"),
        value => Ok(value.unwrap_or(CHECK)),
    };
    Ok(Some(json!({
        "exec": { "command": ["/bin/sh", "-c", line] },
        "periodSeconds": seconds("--health-interval", options.health_interval)?,
        "timeoutSeconds": seconds("--health-timeout", options.health_timeout)?,
        "failureThreshold": options.health_retries.unwrap_or(3).max(1),
        "initialDelaySeconds": options.health_start_period.map_or(0, |period| period.as_secs()),
    })))
}

/// Values that have no field in a manifest.
///
/// # Errors
/// A value is not valid; the error names its option.
pub fn extra(options: &Options) -> anyhow::Result<Extra> {
    let limits = &options.limits;
    if limits.memory_swap.is_some_and(|swap| swap != -1)
        && limits
            .memory
            .is_none_or(|memory| limits.memory_swap.is_some_and(|swap| swap.unsigned_abs() < memory))
    {
        bail!("--memory-swap is memory and swap together: it needs --memory, and is not less");
    }
    let mut extra = Extra {
        user: security::user(options)?.name,
        cpu_quota: limits.cpu_quota,
        cpu_period: limits.cpu_quota.map(|_| limits.cpu_period.unwrap_or(100_000)),
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        memory_swap: limits.memory_swap,
        memory_reservation: limits.memory_reservation,
        pids_limit: limits.pids_limit,
        // The rules of kubelet, by requests and limits, are not docker's.
        oom_score_adj: Some(limits.oom_score_adj.unwrap_or(0)),
        ulimits: ulimits::by_name(&limits.ulimit),
        copy_up: copied_up(options),
        ..Extra::default()
    };
    for text in &options.security.device {
        match device(text)? {
            Some(device) => extra.devices.push(device),
            None => extra.cdi_devices.push(text.clone()),
        }
    }
    for text in &options.security.gpus {
        extra.cdi_devices.extend(gpus(text)?);
    }
    Ok(extra)
}

/// The mount points of volumes that get the image's files.
fn copied_up(options: &Options) -> Vec<String> {
    let volumes = options.volume.iter().chain(&options.mount).filter(|mount| mount.copies_up());
    volumes.map(|mount| mount.target.clone()).collect()
}

/// None for a CDI name, which the runtime looks up.
fn device(text: &str) -> anyhow::Result<Option<Device>> {
    let is_cdi = !text.starts_with('/') && text.split_once('/').is_some_and(|(_, rest)| rest.contains('='));
    if is_cdi {
        return Ok(None);
    }
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode = |part: &str| !part.is_empty() && part.chars().all(|c| "rwm".contains(c));
    let (host, container, permissions) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if is_mode(mode) => (host, host, mode),
        [host, container] => (host, container, "rwm"),
        [host, container, mode] if is_mode(mode) => (host, container, mode),
        _ => bail!("--device {text:?}: expected PATH[:PATH[:rwm]] or a CDI name"),
    };
    if !host.starts_with("/dev/") || !container.starts_with("/dev/") || text.contains("..") {
        bail!("--device {text:?}: expected paths below /dev");
    }
    let owned = str::to_owned;
    Ok(Some(Device { host: owned(host), container: owned(container), permissions: owned(permissions) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_paths_or_cdi_names() {
        let of = |text| device(text).map(|device| device.map(|d| (d.host, d.container, d.permissions)));
        let three = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(of("/dev/fuse").unwrap(), three("/dev/fuse", "/dev/fuse", "rwm"));
        assert_eq!(of("/dev/fuse:r").unwrap(), three("/dev/fuse", "/dev/fuse", "r"));
        assert_eq!(of("/dev/fuse:/dev/f:rw").unwrap(), three("/dev/fuse", "/dev/f", "rw"));
        assert_eq!(of("nvidia.com/gpu=all").unwrap(), None);
        for text in [
            "",
            ":",
            "fuse",
            "/etc/passwd",
            "/dev/a:/etc/x",
            "/dev/../etc",
            "/dev/a:/dev/b:x",
            "/dev/a:/dev/b:",
            "/dev/a:b:c:d",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
