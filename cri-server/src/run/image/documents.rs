//! Converts the options to a manifest: a Pod of one container, and the claims of its named volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, bail};
use crisp_image_service::Reference;
use serde_json::{Value, json};

use super::super::cri::host_dns;
use super::super::manifest::{BACKOFF_LIMIT, EXTRA, is_dns_name};
use super::mounts::{MountOption, Source};
use super::options::Options;
use super::values::Restart;
use super::{Wanted, container, network, security, variables};

/// Marks the pod of a `crisp run IMAGE`: commands for its container apply to the pod. Its value is the restart
/// policy.
pub const OF_IMAGE: &str = "crisp/run-image";
/// The policy of a container that is started with the server, also when a client has stopped it.
pub const ALWAYS: &str = "Always";
/// Seconds between the stop signal and SIGKILL, for commands that stop the pod.
pub const STOP_TIMEOUT: &str = "crisp/stop-timeout";
/// Marks a pod that is removed when it has ended.
pub const REMOVE: &str = "crisp/remove-when-ended";

/// The manifest.
///
/// # Errors
/// A value is not valid; the error names its option.
pub fn documents(wanted: &Wanted<'_>) -> anyhow::Result<Vec<Value>> {
    let options = wanted.options;
    let name = name(wanted)?;
    let mounts: Vec<&MountOption> =
        options.volume.iter().chain(&options.mount).chain(&options.tmpfs).collect();
    check_places(&mounts, options.limits.shm_size.is_some())?;
    let mut documents: Vec<Value> = claims(&mounts)
        .map(|claim| {
            json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": claim } })
        })
        .collect();
    let mut spec = json!({
        "containers": [container::container(wanted, &name, &mounts)?],
        "volumes": container::volumes(&mounts, options),
        "restartPolicy": restart_policy(options),
        "terminationGracePeriodSeconds": stop_timeout(options),
        "securityContext": security::of_pod(options)?,
    });
    namespaces(options, &mut spec)?;
    resolver(options, &mut spec);
    spec["hostAliases"] = json!(aliases(&options.add_host)?);
    documents.push(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "uid": wanted.uid,
            "labels": variables::pairs("--label", &options.label_file, &options.label)?,
            "annotations": annotations(wanted)?,
        },
        "spec": spec,
    }));
    Ok(documents)
}

fn name(wanted: &Wanted<'_>) -> anyhow::Result<String> {
    match &wanted.options.name {
        Some(name) if !is_dns_name(name) || name.contains('.') || name.len() > 63 => {
            bail!("--name {name:?}: a pod has this name too: lower-case letters, digits and '-', 63 at most")
        }
        Some(name) => Ok(name.clone()),
        None => {
            let reference = Reference::parse(wanted.image)?;
            let last = reference.repository().rsplit('/').next().unwrap_or_default();
            let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
            let name: String = last.chars().map(plain).take(50).collect();
            Ok(format!("{}-{}", name.trim_matches('-'), &wanted.uid[..wanted.uid.len().min(6)]))
        }
    }
}

fn check_places(mounts: &[&MountOption], with_shm: bool) -> anyhow::Result<()> {
    let mut places: BTreeSet<&str> = with_shm.then_some("/dev/shm").into_iter().collect();
    for mount in mounts {
        if !places.insert(mount.target.trim_end_matches('/')) {
            bail!("--volume, --mount, --tmpfs: two mounts are at {}", mount.target);
        }
    }
    Ok(())
}

fn claims(mounts: &[&MountOption]) -> impl Iterator<Item = String> {
    let named = mounts.iter().filter_map(|mount| match &mount.source {
        Source::Named(name) => Some(name.clone()),
        _ => None,
    });
    named.collect::<BTreeSet<_>>().into_iter()
}

fn stop_timeout(options: &Options) -> u32 {
    options.stop_timeout.unwrap_or(10)
}

fn restart_policy(options: &Options) -> &'static str {
    match options.restart.unwrap_or(Restart::No) {
        Restart::No => "Never",
        Restart::OnFailure { .. } => "OnFailure",
        Restart::Always | Restart::UnlessStopped => ALWAYS,
    }
}

/// docker's policy: a pod has no unless-stopped.
fn own_policy(options: &Options) -> &'static str {
    match options.restart {
        Some(Restart::UnlessStopped) => "UnlessStopped",
        _ => restart_policy(options),
    }
}

fn annotations(wanted: &Wanted<'_>) -> anyhow::Result<BTreeMap<String, String>> {
    let options = wanted.options;
    let mut all = variables::pairs("--annotation", &[], &options.annotation)?;
    all.insert(OF_IMAGE.to_owned(), own_policy(options).to_owned());
    all.insert(STOP_TIMEOUT.to_owned(), stop_timeout(options).to_string());
    if options.rm {
        all.insert(REMOVE.to_owned(), "true".to_owned());
    }
    if let Some(Restart::OnFailure { most: Some(most) }) = options.restart {
        all.insert(BACKOFF_LIMIT.to_owned(), most.to_string());
    }
    all.insert(EXTRA.to_owned(), serde_json::to_string(&container::extra(options)?)?);
    all.extend(network::annotation(wanted)?.map(|(key, value)| (key.to_owned(), value)));
    Ok(all)
}

fn namespaces(options: &Options, spec: &mut Value) -> anyhow::Result<()> {
    let is_host_network = options.network.iter().any(|name| name == network::HOST);
    if is_host_network && options.network.len() > 1 {
        bail!("--network host: the host's network is the only one then");
    }
    if is_host_network && options.hostname.is_some() {
        bail!("--hostname: on the host's network a pod has the host's name");
    }
    if is_host_network && (!options.publish.is_empty() || options.publish_all) {
        bail!("--publish: on the host's network all ports are the host's");
    }
    spec["hostNetwork"] = json!(is_host_network);
    if let Some(hostname) = &options.hostname {
        if !is_dns_name(&hostname.to_ascii_lowercase()) || hostname.contains('.') || hostname.len() > 63 {
            bail!(
                "--hostname {hostname:?} is not a host name: letters, digits and '-', 63 at most, no domain"
            );
        }
        spec["hostname"] = json!(hostname.to_ascii_lowercase());
    }
    let security = &options.security;
    spec["hostPID"] = json!(word("--pid", security.pid.as_deref(), &["host"])? == Some("host"));
    let ipc = word("--ipc", security.ipc.as_deref(), &["host", "private", "shareable"])?;
    spec["hostIPC"] = json!(ipc == Some("host"));
    word("--userns", security.userns.as_deref(), &["host"])?;
    word("--cgroupns", security.cgroupns.as_deref(), &["private"])?;
    if options.init {
        if spec["hostPID"] == true {
            bail!("--init: with --pid host there is an init");
        }
        spec["shareProcessNamespace"] = json!(true);
    }
    Ok(())
}

fn word<'a>(option: &str, value: Option<&'a str>, known: &[&str]) -> anyhow::Result<Option<&'a str>> {
    match value {
        Some(other) if other.starts_with("container:") => {
            bail!(
                "{option} {other}: containers that share a namespace are containers of one pod: write a manifest"
            )
        }
        Some(other) if !known.contains(&other) => {
            bail!("{option} {other:?} is not supported: {} is", known.join(", "))
        }
        value => Ok(value),
    }
}

/// Each of docker's options replaces one of the host's settings; a pod overrides all or none of them.
fn resolver(options: &Options, spec: &mut Value) {
    if options.dns.is_empty() && options.dns_search.is_empty() && options.dns_option.is_empty() {
        return;
    }
    let is_host_network = spec["hostNetwork"] == true;
    let host = host_dns(is_host_network);
    let own = |own: Vec<String>, host: Vec<String>| if own.is_empty() { host } else { own };
    let servers = own(options.dns.iter().map(ToString::to_string).collect(), host.servers);
    // The pod then has the servers of its network, which know the names of pods, and the host's other settings.
    let is_of_network =
        options.dns.is_empty() && !is_host_network && (options.dns_search.is_empty() || servers.is_empty());
    let (host_searches, host_options) =
        if is_of_network { Default::default() } else { (host.searches, host.options) };
    let mut searches = own(options.dns_search.clone(), host_searches);
    searches.retain(|domain| domain != ".");
    let resolver_options = own(options.dns_option.clone(), host_options);
    let entry = |option: &String| match option.split_once(':') {
        Some((name, value)) => json!({ "name": name, "value": value }),
        None => json!({ "name": option }),
    };
    if !is_of_network {
        spec["dnsPolicy"] = json!("None");
    }
    spec["dnsConfig"] = json!({
        "nameservers": if is_of_network { Vec::new() } else { servers },
        "searches": searches,
        "options": resolver_options.iter().map(entry).collect::<Vec<_>>(),
    });
}

fn aliases(hosts: &[String]) -> anyhow::Result<Vec<Value>> {
    let alias = |text: &String| {
        let at = || format!("--add-host {text:?}: expected NAME:ADDRESS");
        let (name, address) = text.split_once(['=', ':']).with_context(at)?;
        if address == "host-gateway" {
            bail!(
                "--add-host {text:?}: host-gateway is not known before the pod has its network: write the address"
            );
        }
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let ip: IpAddr = address.parse().ok().with_context(at)?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            bail!("{}", at());
        }
        Ok(json!({ "ip": ip.to_string(), "hostnames": [name] }))
    };
    hosts.iter().map(alias).collect()
}
