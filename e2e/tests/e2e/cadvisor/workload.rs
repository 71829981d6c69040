//! The pod whose metrics are compared, on containerd and on Crisp.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crisp_e2e::containerd::Cri;
use crisp_e2e::exposition::{Sample, parse};
use crisp_e2e::kubernetes::{Kubelet, Runtime};
use crisp_e2e::{Machine, Result, http};
use serde_json::Value;

use super::summary::has_rates;

const POD: &str = "compared";
/// The name that the kubelet makes of it.
const FULL_NAME: &str = "compared-crisp-e2e";
pub const UID: &str = "5d4f0a3e-0000-4000-8000-000000000004";
/// The first has limits.
pub const CONTAINERS: [&str; 2] = ["limited", "free"];
/// Bytes that each container writes to its disk.
pub const WRITTEN: u64 = 8 << 20;
/// A busy emulated machine takes minutes.
const LIMIT: Duration = Duration::from_secs(600);

/// The pod of one runtime.
pub struct Measured {
    /// The samples of the kubelet's /metrics/cadvisor.
    pub kubelet: Vec<Sample>,
    /// The kubelet's /stats/summary of the pod.
    pub summary: Value,
    /// The samples of Crisp's page.
    pub own: Vec<Sample>,
}

/// Both containers use CPU time, memory, disk and network, and then rest. Afterwards nothing probes them.
fn manifest(image: &str) -> String {
    let work = format!(
        "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; \
         dd if=/dev/zero of=/file bs=1048576 count={} oflag=direct; \
         dd if=/file of=/dev/null bs=1048576 iflag=direct; \
         x=$(yes | head -c 8000000)",
        WRITTEN >> 20
    );
    let too_much = "sh -c 'x=$(yes | head -c 100000000)'";
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {POD}, namespace: default, uid: {UID}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: limited
    image: {image}
    command: [sh, -c, "{work}; {too_much}; httpd -f -p 8080 & wait"]
    resources: {{requests: {{cpu: 50m, memory: 16Mi}}, limits: {{cpu: 500m, memory: 64Mi}}}}
    startupProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1, failureThreshold: 1000}}
  - name: free
    image: {image}
    command: [sh, -c, "{work}; httpd -f -p 8081 & wait"]
    startupProbe: {{tcpSocket: {{port: 8081}}, periodSeconds: 1, failureThreshold: 1000}}
"#
    )
}

/// Runs the pod on containerd, and removes both.
pub async fn on_containerd(containerd: Cri, image: &str) -> Result<Measured> {
    let mut kubelet = run(containerd.runtime(), &[], image)?;
    let measured = Measured { kubelet: page(&kubelet)?, summary: summary(&kubelet)?, own: vec![] };
    // Its cgroups can be removed when the pod is gone.
    kubelet.stop();
    containerd.close().await?;
    Ok(measured)
}

/// Runs the pod on Crisp, whose page is at `host`, and removes both.
pub async fn on_crisp(machine: Machine, host: &str, image: &str) -> Result<Measured> {
    let mut kubelet = run(Runtime::from(&machine), &["PodAndContainerStatsFromCRI"], image)?;
    let own = http::send(host, "GET", "/metrics/cadvisor", &[], &[])?.body;
    let mut own = parse(&String::from_utf8(own)?)?;
    own.retain(|sample| sample.label("pod") == FULL_NAME);
    let measured = Measured { kubelet: page(&kubelet)?, summary: summary(&kubelet)?, own };
    kubelet.stop();
    machine.client().await?.remove_pods().await?;
    drop(kubelet);
    machine.close().await?;
    Ok(measured)
}

/// Starts the pod, and waits until all that the kubelet knows of it was read after it had come to rest.
fn run(runtime: Runtime, gates: &'static [&'static str], image: &str) -> Result<Kubelet> {
    // As on cgroup v1: else a kubelet on v2 has all processes of a container killed when memory runs out.
    let runtime = Runtime { config: "singleProcessOOMKill: true".to_owned(), ..runtime };
    let kubelet = Kubelet::start_with(runtime, gates)?;
    std::fs::write(kubelet.manifest(POD), manifest(image))?;
    kubelet.until("both containers have done their work", LIMIT, |k| {
        CONTAINERS.iter().all(|name| k.container(POD, name)["started"] == true)
    })?;
    let rests = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    kubelet.until("all samples of the pod are new", LIMIT, |k| {
        let Ok(samples) = page(k) else { return false };
        let is_seen = |container: &&str| {
            let seen = samples.iter().filter(|one| one.family == "container_last_seen");
            seen.into_iter().any(|one| one.label("container") == *container)
        };
        let is_new = |one: &Sample| one.at.is_none_or(|at| u128::from(at.unsigned_abs()) > rests);
        CONTAINERS.iter().all(is_seen) && samples.iter().all(is_new)
    })?;
    kubelet.until("the summary has the rates of the pod", LIMIT, |k| {
        summary(k).is_ok_and(|pod| has_rates(&pod))
    })?;
    Ok(kubelet)
}

/// The kubelet's samples of the pod.
fn page(kubelet: &Kubelet) -> Result<Vec<Sample>> {
    let samples = parse(&kubelet.get("/metrics/cadvisor")?)?;
    Ok(samples.into_iter().filter(|sample| sample.label("pod") == FULL_NAME).collect())
}

/// The kubelet's summary of the pod; null before it has one.
fn summary(kubelet: &Kubelet) -> Result<Value> {
    let summary: Value = serde_json::from_str(&kubelet.get("/stats/summary")?)?;
    let mut pods = summary["pods"].as_array().into_iter().flatten();
    Ok(pods.find(|pod| pod["podRef"]["name"] == FULL_NAME).cloned().unwrap_or_default())
}
