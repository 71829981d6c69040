//! The server dies at every stage of every operation, before and after the stage's work. The next server
//! must let the client repeat its request, and must leave nothing behind when all is removed.
//!
//! The stages are not listed here: a first run with every operation reads them from the server's metrics, so
//! that new stages are tested automatically.

use std::collections::BTreeSet;

use crisp_e2e::registry::free_port;
use crisp_e2e::{Client, Image, Machine, Result, Setup, http, needs, request};
use k8s_cri::v1::{
    ContainerConfig, ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig,
    RemoveContainerRequest, RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::cni::ALONE;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_stage_of_a_pull() -> Result<()> {
    needs!("docker-registry", "busybox");
    die_at_every_stage("pull_image").await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_stage_of_running_a_pod() -> Result<()> {
    needs!("docker-registry", "busybox");
    die_at_every_stage("run_pod").await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_stage_of_creating_a_container() -> Result<()> {
    needs!("docker-registry", "busybox");
    die_at_every_stage("create_container").await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_stage_of_starting_a_container() -> Result<()> {
    needs!("docker-registry", "busybox");
    die_at_every_stage("start_container").await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_stage_of_stopping_a_container() -> Result<()> {
    needs!("docker-registry", "busybox");
    die_at_every_stage("stop_container").await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_stage_of_removing_a_container() -> Result<()> {
    needs!("docker-registry", "busybox");
    die_at_every_stage("remove_container").await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_stage_of_stopping_a_pod() -> Result<()> {
    needs!("docker-registry", "busybox");
    die_at_every_stage("stop_pod").await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_stage_of_removing_a_pod() -> Result<()> {
    needs!("docker-registry", "busybox");
    die_at_every_stage("remove_pod").await
}

/// The operations that call plugins, with Debian's own.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_stage_with_cni_plugins() -> Result<()> {
    needs!("docker-registry", "busybox", "iptables", "/usr/lib/cni/bridge");
    let _alone = ALONE.lock().await;
    let number = std::process::id() % 10_000;
    let bridge = format!("cf{number}");
    let subnet = format!("10.196.{}.0/24", number % 250);
    let with_plugins = ["run_pod", "stop_pod", "remove_pod"];
    let stages: Vec<_> =
        stages().await?.iter().filter(|(of, _)| with_plugins.contains(&of.as_str())).collect();
    for of in with_plugins {
        assert!(stages.iter().any(|(operation, _)| operation == of), "{of} has no stage: was it renamed?");
    }
    let mut held = Vec::new();
    for (operation, stage) in stages {
        for when in ["", ":after"] {
            let point = format!("{operation}/{stage}{when}");
            let deaths = live_with_plugins(&point, &bridge, &subnet, &mut held);
            let deaths = deaths.await.map_err(|error| format!("killed at {point}: {error}"))?;
            assert_eq!((deaths, held.len()), (1, 0), "deaths and addresses in use after {point}: {held:?}");
            assert_eq!(crisp_e2e::leak::network_namespaces(), Vec::<String>::new(), "{point}");
        }
    }
    let _ = std::process::Command::new("ip").args(["link", "delete", &bridge]).status();
    Ok(())
}

/// As [`live`], on a network of real plugins; `held` are the addresses that they still keep at the end.
async fn live_with_plugins(point: &str, bridge: &str, subnet: &str, held: &mut Vec<String>) -> Result<usize> {
    let args = vec!["--cni-bin-dir".into(), "/usr/lib/cni".into()];
    let setup = Setup { cni: true, args, faults: Some(format!("{point}=kill")), ..Setup::default() };
    let mut life = Life::begin(setup).await?;
    let addresses = life.machine.folder().join("ipam");
    let ipam = json!({"type": "host-local", "dataDir": addresses, "ranges": [[{"subnet": subnet}]]});
    let plugins = json!([
        {"type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": false, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]);
    let list = json!({"cniVersion": "1.0.0", "name": "faults", "plugins": plugins});
    std::fs::write(life.machine.cni().join("10-faults.conflist"), list.to_string())?;
    life.live().await?;
    let files = std::fs::read_dir(addresses.join("faults"))?.flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    *held = names.filter(|name| name.starts_with("10.")).collect();
    let deaths = life.deaths;
    life.machine.close().await?;
    Ok(deaths)
}

async fn die_at_every_stage(operation: &str) -> Result<()> {
    let stages: Vec<_> = stages().await?.iter().filter(|(of, _)| of == operation).collect();
    assert!(!stages.is_empty(), "{operation} has no stage: was it renamed?");
    for (operation, stage) in stages {
        for when in ["", ":after"] {
            let point = format!("{operation}/{stage}{when}");
            let deaths = live(&point).await.map_err(|error| format!("killed at {point}: {error}"))?;
            assert_eq!(deaths, 1, "deaths at {point}");
        }
    }
    Ok(())
}

/// Returns all stages, as pairs of operation and stage.
async fn stages() -> Result<&'static BTreeSet<(String, String)>> {
    static STAGES: OnceCell<BTreeSet<(String, String)>> = OnceCell::const_new();
    STAGES
        .get_or_try_init(|| async {
            let host = format!("127.0.0.1:{}", free_port()?);
            let args = vec!["--metrics-listen".to_owned(), host.clone()];
            let mut life =
                Life::begin(Setup { args, faults: Some(String::new()), ..Setup::default() }).await?;
            life.live().await?;
            let page = String::from_utf8(http::send(&host, "GET", "/metrics", &[], &[])?.body)?;
            life.machine.close().await?;
            let label = |line: &str, name: &str| {
                let (_, rest) = line.split_once(&format!("{name}=\""))?;
                Some(rest.split_once('"')?.0.to_owned())
            };
            let lines = page.lines().filter(|line| line.starts_with("crisp_stage_duration_seconds_count{"));
            Ok(lines.filter_map(|line| Some((label(line, "operation")?, label(line, "stage")?))).collect())
        })
        .await
}

/// Runs one pod from pull to removal while the server dies at `point`; returns how often it died.
async fn live(point: &str) -> Result<usize> {
    let faults = Some(format!("{point}=kill"));
    let mut life = Life::begin(Setup { faults, ..Setup::default() }).await?;
    life.live().await?;
    let deaths = life.deaths;
    life.machine.close().await?;
    Ok(deaths)
}

struct Life {
    machine: Machine,
    client: Client,
    image: String,
    deaths: usize,
}

/// Makes a request. If the server died during it, repeats the request on the next server.
macro_rules! repeat {
    ($life:expr, $client:ident => $request:expr) => {{
        let $client = &mut $life.client;
        match $request.await {
            Ok(answer) => answer,
            Err(first) => match $life.machine.restart_if_killed().await? {
                Some(client) => {
                    $life.deaths += 1;
                    $life.client = client;
                    let $client = &mut $life.client;
                    $request.await.map_err(|again| format!("repeated: {again}"))?
                }
                None => return Err(first.into()),
            },
        }
    }};
}

impl Life {
    async fn begin(setup: Setup) -> Result<Self> {
        let machine = Machine::start_with(setup).await?;
        let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
        let client = machine.client().await?;
        Ok(Self { machine, client, image, deaths: 0 })
    }

    /// Pulls, runs, creates, starts, stops and removes.
    async fn live(&mut self) -> Result<()> {
        let image = self.image.clone();
        repeat!(self, client => client.pull(&image));
        let sandbox = request::pod(&self.machine, "life");
        let pod_sandbox_id = repeat!(self, client => client.run_pod(&sandbox));
        let config = request::shell("main", &image, "exec sleep 1000");
        let container_id = repeat!(self, client => client.create(&pod_sandbox_id, &config, &sandbox));
        let container_id = self.start(container_id, &pod_sandbox_id, &config, &sandbox).await?;
        let output = self.client.exec(&container_id, &["echo", "alive"]).await?.stdout;
        assert_eq!(output, b"alive\n"[..]);
        let stop = StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        repeat!(self, client => client.runtime.stop_container(stop.clone()));
        let remove = RemoveContainerRequest { container_id };
        repeat!(self, client => client.runtime.remove_container(remove.clone()));
        let stop = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        repeat!(self, client => client.runtime.stop_pod_sandbox(stop.clone()));
        let remove = RemovePodSandboxRequest { pod_sandbox_id };
        repeat!(self, client => client.runtime.remove_pod_sandbox(remove.clone()));
        self.nothing_is_listed().await
    }

    /// Starts the container. When the server died meanwhile, the start is repeated; a container that the next
    /// server found half started has exited with StartError and is replaced, as a kubelet does it.
    async fn start(
        &mut self,
        container: String,
        pod: &str,
        config: &ContainerConfig,
        sandbox: &PodSandboxConfig,
    ) -> Result<String> {
        let Err(first) = self.client.start(&container).await else { return Ok(container) };
        let Some(client) = self.machine.restart_if_killed().await? else { return Err(first.into()) };
        self.deaths += 1;
        self.client = client;
        let Err(again) = self.client.start(&container).await else { return Ok(container) };
        let status = self.client.status(&container).await?;
        if status.state() == ContainerState::ContainerRunning {
            // The server died after the start, and the next one found the container running.
            return Ok(container);
        }
        if status.state() != ContainerState::ContainerExited || status.reason != "StartError" {
            return Err(format!("repeated: {again}: {status:?}").into());
        }
        let remove = RemoveContainerRequest { container_id: container };
        self.client.runtime.remove_container(remove).await?;
        let container = self.client.create(pod, config, sandbox).await?;
        self.client.start(&container).await?;
        Ok(container)
    }

    async fn nothing_is_listed(&mut self) -> Result<()> {
        let runtime = &mut self.client.runtime;
        let containers = runtime.list_containers(ListContainersRequest::default()).await?.into_inner();
        let pods = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner();
        if containers.containers.is_empty() && pods.items.is_empty() {
            return Ok(());
        }
        Err(format!("still listed: {containers:?} {pods:?}").into())
    }
}
