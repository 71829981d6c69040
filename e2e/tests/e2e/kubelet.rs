//! A real kubelet runs pods on Crisp.

use std::time::Duration;

use crisp_e2e::kubernetes::Kubelet;
use crisp_e2e::programs::{self, KUBELET};
use crisp_e2e::{Image, Machine, Result, needs};

const MINUTE: Duration = Duration::from_secs(60);

fn manifest(image: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: default, uid: 5d4f0a3e-0000-4000-8000-000000000001}}
spec:
  terminationGracePeriodSeconds: 5
  volumes: [{{name: www, emptyDir: {{}}}}]
  initContainers:
  - name: prepare
    image: {image}
    command: [sh, -c, "echo prepared > /www/index.html; echo init was here"]
    volumeMounts: [{{name: www, mountPath: /www}}]
  containers:
  - name: server
    image: {image}
    command: [sh, -c, "echo serving; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"]
    ports: [{{containerPort: 8080}}]
    resources: {{requests: {{cpu: 50m, memory: 16Mi}}, limits: {{cpu: 500m, memory: 64Mi}}}}
    volumeMounts: [{{name: www, mountPath: /www}}]
    readinessProbe: {{httpGet: {{path: /index.html, port: 8080}}, periodSeconds: 1}}
    livenessProbe: {{exec: {{command: [cat, /www/index.html]}}, periodSeconds: 1}}
  - name: sidecar
    image: {image}
    command: [sh, -c, "trap 'exit 0' TERM; while true; do wget -q -O - http://127.0.0.1:8080/ || true; sleep 1 & wait; done"]
"#
    )
}

fn crashing(image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: crash, namespace: default, uid: 5d4f0a3e-0000-4000-8000-000000000002}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: main, image: \"{image}\", command: [sh, -c, \"echo about to fail; exit 3\"]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_runs_static_pods() -> Result<()> {
    needs!("docker-registry", "busybox", "curl");
    if !programs::can_build(&[KUBELET]) {
        needs!("go");
    }
    let mut machine = Machine::start().await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let mut kubelet = Kubelet::start(&machine)?;
    std::fs::write(kubelet.manifest("web"), manifest(&image))?;
    kubelet.until("both containers are ready", MINUTE, |k| {
        ["server", "sidecar"].iter().all(|name| k.container("web", name)["ready"] == true)
    })?;
    assert_eq!(kubelet.container("web", "prepare")["state"]["terminated"]["exitCode"], 0);
    serves_logs_and_exec(&kubelet)?;
    restarts_what_crashes(&kubelet, &image)?;
    survives_restarts(&mut kubelet, &mut machine).await?;
    takes_away("web", &kubelet, &machine).await?;
    drop(kubelet);
    machine.close().await
}

/// Then only the runtime can provide the metrics that dashboards request from kubelet.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_takes_the_metrics_of_pods_from_the_runtime() -> Result<()> {
    needs!("docker-registry", "busybox", "curl");
    if !programs::can_build(&[KUBELET]) {
        needs!("go");
    }
    let machine = Machine::start().await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let kubelet = Kubelet::start_with(&machine, &["PodAndContainerStatsFromCRI"])?;
    std::fs::write(kubelet.manifest("web"), manifest(&image))?;
    let labels = |line: &str, container: &str| {
        line.contains(&format!("container=\"{container}\"")) && line.contains("pod=\"web-crisp-e2e\"")
    };
    kubelet.until("the kubelet's page has the runtime's series", MINUTE, |k| {
        let Ok(page) = k.get("/metrics/cadvisor") else { return false };
        let has = |name: &str, container| {
            page.lines().any(|line| line.starts_with(&format!("{name}{{")) && labels(line, container))
        };
        ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_processes"]
            .iter()
            .all(|name| has(name, "server") && has(name, "sidecar"))
            && has("container_network_receive_bytes_total", "")
            && has("container_cpu_usage_seconds_total", "")
    })?;
    takes_away("web", &kubelet, &machine).await?;
    drop(kubelet);
    machine.close().await
}

/// The kubelet lists pods every five minutes at most then, if the events do not fail it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_follows_pods_by_their_events() -> Result<()> {
    needs!("docker-registry", "busybox", "curl");
    if !programs::can_build(&[KUBELET]) {
        needs!("go");
    }
    let machine = Machine::start().await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let kubelet = Kubelet::start_with(&machine, &["EventedPLEG"])?;
    let names: Vec<String> = (0..10).map(|number| format!("many{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        std::fs::write(kubelet.manifest(name), sleeping(name, number, &image))?;
    }
    kubelet.until("all pods are ready", MINUTE, |k| {
        names.iter().all(|name| k.container(name, "main")["ready"] == true)
    })?;
    std::fs::write(kubelet.manifest("crash"), crashing(&image))?;
    kubelet.until("the crashing container was restarted", MINUTE, |k| {
        k.container("crash", "main")["restartCount"].as_i64() >= Some(1)
    })?;
    std::fs::remove_file(kubelet.manifest("crash"))?;
    for name in &names {
        std::fs::remove_file(kubelet.manifest(name))?;
    }
    kubelet.until("all pods are gone", MINUTE, |k| k.pods().is_ok_and(|pods| pods.is_empty()))?;
    nothing_runs(&machine).await?;
    let page = kubelet.get("/metrics")?;
    let count = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<f64>().ok()
    };
    assert_eq!(count("kubelet_evented_pleg_connection_success_count"), Some(1.0));
    assert_eq!(count("kubelet_evented_pleg_connection_error_count").unwrap_or(0.0), 0.0);
    drop(kubelet);
    machine.close().await
}

fn sleeping(name: &str, number: usize, image: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, uid: 5d4f0a3e-0000-4000-8000-0000000001{number:02}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: {image}, command: [sleep, "1000"]}}
"#
    )
}

fn serves_logs_and_exec(kubelet: &Kubelet) -> Result<()> {
    kubelet.until("the sidecar has fetched the page", MINUTE, |k| {
        k.get("/containerLogs/default/web-crisp-e2e/sidecar").is_ok_and(|log| log.contains("prepared"))
    })?;
    assert_eq!(kubelet.get("/containerLogs/default/web-crisp-e2e/prepare")?, "init was here\n");
    let page = kubelet.post("/run/default/web-crisp-e2e/server?cmd=cat%20/www/index.html")?;
    assert_eq!(page, "prepared\n");
    kubelet.until("the summary has the pod's memory", MINUTE, |k| {
        k.get("/stats/summary").is_ok_and(|summary| has_memory_of_the_server(&summary))
    })
}

fn has_memory_of_the_server(summary: &str) -> bool {
    let summary: serde_json::Value = serde_json::from_str(summary).unwrap_or_default();
    let pods = summary["pods"].as_array().cloned().unwrap_or_default();
    pods.iter().filter(|pod| pod["podRef"]["name"] == "web-crisp-e2e").any(|pod| {
        let server = pod["containers"].as_array().and_then(|c| c.iter().find(|c| c["name"] == "server"));
        server.is_some_and(|c| c["memory"]["workingSetBytes"].as_u64() > Some(0))
    })
}

fn restarts_what_crashes(kubelet: &Kubelet, image: &str) -> Result<()> {
    std::fs::write(kubelet.manifest("crash"), crashing(image))?;
    kubelet.until("the crashing container was restarted and waits", MINUTE, |k| {
        let main = k.container("crash", "main");
        let waits = main["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        waits && main["restartCount"].as_i64() >= Some(1) && main["lastState"]["terminated"]["exitCode"] == 3
    })?;
    std::fs::remove_file(kubelet.manifest("crash"))?;
    kubelet.until("the crashing pod is gone", MINUTE, |k| {
        k.pods().is_ok_and(|pods| pods.iter().all(|(name, _)| name != "crash-crisp-e2e"))
    })
}

async fn survives_restarts(kubelet: &mut Kubelet, machine: &mut Machine) -> Result<()> {
    let before = kubelet.container("web", "server");
    kubelet.restart()?;
    machine.kill_server();
    machine.start_server().await?;
    // Long enough for several probes and a relist.
    tokio::time::sleep(Duration::from_secs(5)).await;
    kubelet.until("the pod is ready again", MINUTE, |k| k.container("web", "server")["ready"] == true)?;
    let after = kubelet.container("web", "server");
    assert_eq!(before["containerID"], after["containerID"], "{after}");
    assert_eq!(after["restartCount"], 0, "{after}");
    Ok(())
}

async fn takes_away(pod: &str, kubelet: &Kubelet, machine: &Machine) -> Result<()> {
    std::fs::remove_file(kubelet.manifest(pod))?;
    nothing_runs(machine).await
}

/// Waits until the kubelet's cgroups contain no processes: only then can they be removed.
async fn nothing_runs(machine: &Machine) -> Result<()> {
    let mut client = machine.client().await?;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let request = k8s_cri::v1::ListContainersRequest::default();
        let containers = client.runtime.list_containers(request).await?.into_inner().containers;
        let request = k8s_cri::v1::ListPodSandboxRequest::default();
        let pods = client.runtime.list_pod_sandbox(request).await?.into_inner().items;
        let runs = containers.iter().any(|c| c.state() == k8s_cri::v1::ContainerState::ContainerRunning)
            || pods.iter().any(|p| p.state() == k8s_cri::v1::PodSandboxState::SandboxReady);
        if !runs {
            return Ok(());
        }
        if std::time::Instant::now() > deadline {
            return Err(format!("still running after 30 s: {containers:?} {pods:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Major and minor number of the kernel's release.
fn kernel() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(|number| number.trim().parse());
    let mut next = || numbers.next().ok_or_else(|| format!("kernel release {release:?}"));
    Ok((next()??, next()??))
}

/// A manifest with an emptyDir, a hostPath, a volume that kubelet fills, and a part of an image.
fn with_own_users(image: &str, host: &std::path::Path) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: users, namespace: default, uid: 5d4f0a3e-0000-4000-8000-000000000003}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  securityContext: {{fsGroup: 2000}}
  volumes:
  - {{name: work, emptyDir: {{}}}}
  - {{name: host, hostPath: {{path: "{host}"}}}}
  - {{name: about, downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}}}
  - {{name: tools, image: {{reference: "{image}", pullPolicy: IfNotPresent}}}}
  containers:
  - name: main
    image: {image}
    command: [sh, -c, "cat /proc/self/uid_map; touch /work/x /host/x; stat -c %u:%g /work /work/x /host/x /about/name /etc/hosts; /tools/busybox stat -c %u:%g /tools/busybox; cat /about/name; echo; sleep 1000"]
    volumeMounts:
    - {{name: work, mountPath: /work}}
    - {{name: host, mountPath: /host}}
    - {{name: about, mountPath: /about}}
    - {{name: tools, mountPath: /tools, subPath: bin}}
    readinessProbe: {{exec: {{command: [touch, /work/probed]}}, periodSeconds: 1}}
"#,
        host = host.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_runs_a_pod_with_its_own_users() -> Result<()> {
    needs!("docker-registry", "busybox", "curl");
    if !programs::can_build(&[KUBELET]) {
        needs!("go");
    }
    // The kubelet's own volumes are on tmpfs, which supports mapped ids since Linux 6.3.
    if kernel()? < (6, 3) {
        crisp_skip::unsupported!(Kernel("mapping of ids on tmpfs (6.3)"));
    }
    let machine = Machine::start().await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let kubelet = Kubelet::start(&machine)?;
    let host = machine.folder().join("host");
    std::fs::create_dir(&host)?;
    std::fs::write(kubelet.manifest("users"), with_own_users(&image, &host))?;
    kubelet.until("the container is ready", MINUTE, |k| k.container("users", "main")["ready"] == true)?;
    let log = kubelet.get("/containerLogs/default/users-crisp-e2e/main")?;
    let mut lines = log.lines();
    let map: Vec<u32> =
        lines.next().unwrap_or_default().split_whitespace().filter_map(|id| id.parse().ok()).collect();
    assert!(matches!(map[..], [0, first, 65_536] if first >= 65_536), "{log}");
    let owners: Vec<&str> = lines.by_ref().take(6).collect();
    assert_eq!(owners, ["0:2000", "0:2000", "0:0", "0:2000", "0:0", "0:0"], "{log}");
    assert_eq!(lines.next(), Some("users-crisp-e2e"), "{log}");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(host.join("x"))?), 0);
    takes_away("users", &kubelet, &machine).await?;
    drop(kubelet);
    machine.close().await
}
