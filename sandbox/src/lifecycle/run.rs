//! Starting a pod: monitor, namespaces, network, in stages; a failed one undoes them all.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup::{CgroupPath, JoinFds};
use crisp_executor::id::PodId;

use crate::config::{NamespaceMode, PidMode, PodConfig};
use crate::error::{PodError, StageCause, StageFailure};
use crate::lifecycle::teardown::{own_cgroup, teardown};
use crate::lifecycle::{now, watch};
use crate::link::{MonitorLink, OpenPod, PodOpened};
use crate::network::{AttachRequest, PodNetlink};
use crate::pod::{Pod, PodState};
use crate::pods::{PodEvent, Pods};
use crate::record::{PodRecord, private_folder, remove_folder};
use crate::spawn;
use crate::stage::{blocking, stage};
use crate::sysctl;

const OPERATION: &str = "run_pod";
const FILES: Duration = Duration::from_secs(10);
const MONITOR: Duration = Duration::from_secs(10);
/// Above the deadline that a CNI plugin gets.
const NETWORK: Duration = Duration::from_secs(120);
const SHM_BYTES: u64 = 64 << 20;

/// See [`Pods::run`].
pub(crate) async fn run(pods: &Pods, config: PodConfig) -> Result<PodId, PodError> {
    let id = PodId::random();
    let parent = cgroup_parent(&id, &config);
    let record = PodRecord::new(id.clone(), config, now());
    let pod = Pod::new(&pods.shared.layout, record, parent);
    match make(pods, &pod).await {
        Ok(link) => {
            pods.insert(&pod);
            pods.announce(PodEvent::Linked(pod.clone()));
            watch::watch(pods, &pod, link);
            Ok(id)
        }
        Err(failure) => {
            let mut undo = teardown(pods, &pod, OPERATION).await;
            // With the record goes the last trace: it stays when something else did, for the next start.
            if undo.is_empty() {
                undo.extend(remove_files(pods, &pod).await.err());
            }
            Err(PodError::Failed { operation: OPERATION, pod: id, failure, undo })
        }
    }
}

/// The parent asked for, or one of our own per pod.
pub(crate) fn cgroup_parent(id: &PodId, config: &PodConfig) -> CgroupPath {
    match &config.cgroup_parent {
        Some(parent) => parent.clone(),
        None => own_parent(id),
    }
}

/// `/crisp/<pod>`: where nobody asked for a place in a tree of their own.
fn own_parent(id: &PodId) -> CgroupPath {
    #[expect(clippy::expect_used, reason = "an id is 64 hexadecimal digits, always a valid component")]
    CgroupPath::parse(&format!("/crisp/{id}")).expect("valid by construction")
}

async fn make(pods: &Pods, pod: &Arc<Pod>) -> Result<MonitorLink, StageFailure> {
    let metrics = &pods.shared.metrics;
    stage(metrics, OPERATION, "files", FILES, write_files(pods, pod)).await?;
    let (link, opened, pid) = stage(metrics, OPERATION, "monitor", MONITOR, start_monitor(pods, pod)).await?;
    let ips = stage(metrics, OPERATION, "network", NETWORK, attach(pods, pod, opened)).await?;
    stage(metrics, OPERATION, "commit", FILES, async {
        pod.files().write_hosts(&pod.config, &ips)?;
        pod.update(|record| {
            record.state = PodState::Ready;
            record.monitor_pid = Some(pid);
            record.ips = ips;
        })?;
        Ok(())
    })
    .await?;
    Ok(link)
}

/// Folders and record first: from here on a crash leaves an owner for whatever else exists.
async fn write_files(pods: &Pods, pod: &Arc<Pod>) -> Result<(), StageCause> {
    let (layout, pod) = (pods.shared.layout.clone(), pod.clone());
    blocking(move || {
        private_folder(&layout.pod_root(&pod.id))?;
        private_folder(&layout.exits(&pod.id))?;
        pod.update(|_| {})?;
        pod.files().write_names(&pod.config)?;
        if let Some(folder) = &pod.config.log_directory {
            std::fs::create_dir_all(folder)?;
        }
        Ok(())
    })
    .await
}

async fn start_monitor(pods: &Pods, pod: &Arc<Pod>) -> Result<(MonitorLink, PodOpened, i32), StageCause> {
    let inner = &pods.shared;
    let (cgroups, path) = (inner.cgroups.clone(), own_cgroup(pod)?);
    let (binary, id, folder) = (inner.monitor.clone(), pod.id.clone(), inner.layout.pod_state(&pod.id));
    let process = move || {
        let mut cgroup = cgroups.create(&path)?.join()?;
        let pid = spawn::spawn(&binary, &id, &folder, &mut cgroup)?;
        Ok((cgroup, pid))
    };
    let (cgroup, pid) = blocking(process).await?;
    let link = MonitorLink::connect(&inner.layout.socket(&pod.id), MONITOR).await?;
    pod.set_link(Some(link.clone()));
    let exits: OwnedFd = File::open(inner.layout.exits(&pod.id))?.into();
    let opened = link.open_pod(open_pod(&pod.config, cgroup, exits)).await?;
    Ok((link, opened, pid))
}

fn open_pod(config: &PodConfig, cgroup: JoinFds, exits: OwnedFd) -> OpenPod {
    let own_network = config.network == NamespaceMode::Pod;
    let defaults = sysctl::NETWORK_DEFAULTS.iter().filter(|_| own_network);
    let defaults = defaults.filter(|(name, _)| !config.sysctls.contains_key(*name));
    let asked = config.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let sysctls =
        defaults.copied().chain(asked).map(|(name, value)| (sysctl::path(name), value.to_owned())).collect();
    OpenPod {
        network: own_network,
        ipc: config.ipc == NamespaceMode::Pod,
        hostname: config.own_hostname(),
        shared_pid: config.pid == PidMode::Pod,
        shm_bytes: SHM_BYTES,
        sysctls,
        exits,
        cgroup_v2: cgroup.v2,
        cgroup_v1_tasks: cgroup.v1_tasks,
    }
}

async fn attach(pods: &Pods, pod: &Arc<Pod>, opened: PodOpened) -> Result<Vec<IpAddr>, StageCause> {
    let Some(network) = opened.network else { return Ok(vec![]) };
    let netlink = PodNetlink::new(network.netlink);
    let request = AttachRequest {
        pod: pod.id.clone(),
        name: pod.config.name.clone(),
        namespace: pod.config.namespace.clone(),
        uid: pod.config.uid.clone(),
        netlink: netlink.clone(),
        netns: Arc::new(network.netns),
        port_mappings: pod.config.port_mappings.clone(),
        annotations: pod.config.annotations.clone(),
        dns: pod.config.dns.clone(),
    };
    let attachment = pods.shared.networks.attach(request).await?;
    pod.set_netlink(Some(netlink));
    Ok(attachment.ips)
}

pub(crate) async fn remove_files(pods: &Pods, pod: &Arc<Pod>) -> Result<(), StageFailure> {
    let layout = &pods.shared.layout;
    let (state, root) = (layout.pod_state(&pod.id), layout.pod_root(&pod.id));
    let work = blocking(move || {
        remove_folder(&state)?;
        // The record goes last: until then a crash leaves something that the next start knows about.
        remove_folder(&root)?;
        Ok(())
    });
    stage(&pods.shared.metrics, OPERATION, "files", FILES, work).await
}
