//! Makes a pod: monitor, namespaces, network. A stage that fails undoes them all.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crisp_executor::cgroup::JoinFds;
use crisp_executor::ids::PodId;
use crisp_operation::record::private_folder;
use crisp_operation::{Cancel, Operation, Stage, Steps};

use super::{pod_remove, pod_watch, teardown};
use crate::config::PodConfig;
use crate::error::{PodCause, PodError, StageFailure};
use crate::link::{MonitorLink, OpenPod, PodNetwork, PodOpened};
use crate::namespace::{NamespaceMode, PidMode};
use crate::network::{AttachRequest, PodNetlink};
use crate::pod::Pod;
use crate::pod::record::{PodMetadata, PodRecord};
use crate::pod::state::{PodState, PodStatus};
use crate::service_state::{PodEvent, ServiceState};
use crate::spawn::{self, Reaper};
use crate::sysctl;
use crate::systemd::{Scope, ScopeHolder, Systemd};

const OPERATION: &str = "run_pod";
const FILES: Duration = Duration::from_secs(10);
/// Longer than systemd's own deadline, whose error names the step that it waited for.
const SCOPE: Duration = Duration::from_secs(75);
const MONITOR: Duration = Duration::from_secs(10);
const SHM_BYTES: u64 = 64 << 20;

/// See [`Pods::run`](crate::Pods::run). Equal requests must not run in parallel.
pub(crate) async fn run(
    service: &Arc<ServiceState>,
    config: PodConfig,
    cancel: Cancel,
) -> Result<PodId, PodError> {
    if let Some(id) = existing(service, &config).await? {
        return Ok(id);
    }
    let (id, pid) = (PodId::random(), config.pid);
    let subject = format!("pod {id} ({}/{})", config.namespace, config.name);
    let metadata = PodMetadata::new(id.clone(), config, service.cgroup_driver());
    let record = PodRecord { metadata, status: PodStatus::starting() };
    let pod = Pod::new(&service.layout, record);
    let mut operation = Operation::cancelled_by(&service.metrics, OPERATION, subject, cancel);
    let turn = operation.turn(service.lock(&id, OPERATION)).await?;
    operation.hold(turn);
    let made = make(service, &pod, &operation).await;
    match operation.finish(made).await {
        Ok(link) => {
            service.table.insert(&pod);
            service.emit(PodEvent::Made(pod.clone()));
            pod_watch::watch(service, &pod, Some(link), pid == PidMode::Pod);
            Ok(id)
        }
        Err(failure) => {
            if !failure.is_undone() {
                // Listed so that it can be removed; an equal request first cleans it up.
                let _ = pod.status.observe(|status| status.failed(failure.to_string()));
                service.table.insert(&pod);
            }
            Err(failure.into())
        }
    }
}

/// The pod that an earlier equal request has made. The remains of a failed one are cleaned up.
async fn existing(service: &Arc<ServiceState>, config: &PodConfig) -> Result<Option<PodId>, PodError> {
    let key = config.key();
    let Some(pod) = service.table.by_key(&key) else { return Ok(None) };
    let id = pod.id.clone();
    match pod.status().state.clone() {
        PodState::Ready => Ok(Some(id)),
        PodState::Failed { .. } | PodState::Removing => match pod_remove::remove(service, &pod).await {
            Ok(()) => Ok(None),
            Err(error) => Err(PodError::LeftOver { key, id, error: Box::new(error) }),
        },
        state => Err(PodError::Exists { key, id, state }),
    }
}

async fn make(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    operation: &Operation<PodCause>,
) -> Result<MonitorLink, StageFailure> {
    register_undo(service, pod, operation);
    let scope = match (&service.systemd, pod.scope()) {
        (Some(systemd), Some(path)) => {
            let description = format!("Crisp pod {}/{}", pod.config.namespace, pod.config.name);
            let scope = Scope::of(&pod.id, path, description);
            Some(make_scope(service, systemd, &scope, pod, operation).await?)
        }
        _ => None,
    };
    let (cgroup, pid, _reaper) = {
        let (service, pod, has_files) = (service.clone(), pod.clone(), scope.is_some());
        let work = move |steps: &Steps<PodCause>| start_monitor(&service, &pod, has_files, steps);
        operation.blocking(FILES + MONITOR, work).await?
    };
    let open = |_| open_pod(service, pod, pid, cgroup);
    let (link, opened) = operation.stage("open", MONITOR, open).await?;
    let attach = |stage: Stage<PodCause>| attach(service, pod, opened, stage.cancel().clone());
    let time = service.networks.time_of_attach(&pod.config.annotations);
    let network = operation.stage("network", time, attach);
    let controllers = async {
        match scope {
            Some(holder) => leave_scope(service, pod, holder, operation).await,
            None => Ok(()),
        }
    };
    // In parallel: the second step waits for an RCU grace period of the kernel.
    let (ips, controllers) = tokio::join!(network, controllers);
    let ips = ips?;
    controllers?;
    let (ready, resolver) = (pod.clone(), service.networks.resolver(&pod.id));
    let commit = move |steps: &Steps<PodCause>| {
        steps.step("commit", || {
            ready.files().write_hosts(&ready.config, &ips)?;
            if resolver.is_some() {
                ready.files().write_resolv_conf(&ready.config, resolver)?;
            }
            ready.status.update(|status| status.ready(pid, &ips))?;
            Ok(())
        })
    };
    operation.blocking(FILES, commit).await?;
    Ok(link)
}

/// The undo steps of all stages. They run from the last to the first: processes end before their addresses
/// are released, and the record is removed last, unless something of the pod is left.
fn register_undo(service: &Arc<ServiceState>, pod: &Arc<Pod>, operation: &Operation<PodCause>) {
    let left = Arc::new(AtomicBool::new(false));
    let note = |result: Result<(), PodCause>, left: &AtomicBool| {
        left.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    };
    let (undo_service, undo_pod, undo_left) = (service.clone(), pod.clone(), left.clone());
    operation.undo("files", move || {
        if !undo_left.load(Ordering::Relaxed) {
            teardown::remove_pod_files(&undo_service, &undo_pod)?;
            undo_service.table.remove(&undo_pod);
        }
        Ok(())
    });
    let (undo_service, undo_pod, undo_left) = (service.clone(), pod.clone(), left.clone());
    operation
        .undo("cgroup", move || note(teardown::remove_pod_cgroups(&undo_service, &undo_pod), &undo_left));
    let (undo_service, undo_pod, undo_left) = (service.clone(), pod.clone(), left.clone());
    let time = service.networks.time_of_attach(&pod.config.annotations);
    operation.undo_async("network", time, move || async move {
        let detached = undo_service.networks.detach(&undo_pod.id).await;
        note(detached.map_err(PodCause::from), &undo_left)
    });
    let (undo_service, undo_pod, undo_left) = (service.clone(), pod.clone(), left);
    operation.undo("monitor", move || note(teardown::kill(&undo_service, &undo_pod), &undo_left));
    let undo_pod = pod.clone();
    operation.undo_async("monitor", MONITOR, move || async move {
        // The next undo step kills processes that did not end.
        teardown::shut_down(&undo_pod).await;
        undo_pod.disconnect();
        Ok(())
    });
}

/// Lets systemd make the pod's scope, with a placeholder process in it until the monitor is there.
async fn make_scope(
    service: &Arc<ServiceState>,
    systemd: &Systemd,
    scope: &Scope,
    pod: &Arc<Pod>,
    operation: &Operation<PodCause>,
) -> Result<ScopeHolder, StageFailure> {
    let (service, files_of) = (service.clone(), pod.clone());
    let binary = service.monitor.clone();
    let work = move |steps: &Steps<PodCause>| start_files(&service, &files_of, steps);
    operation.blocking(FILES, work).await?;
    let make = |_| async {
        let permit = systemd.permit(&scope.name).await?;
        let mut holder = ScopeHolder::start(&binary, &pod.id)?;
        permit.start(scope, &mut holder).await?;
        Ok(holder)
    };
    operation.stage("scope", SCOPE, make).await
}

/// Ends the placeholder process, after the monitor is in the scope. While a process is directly in the scope,
/// the kernel gives the cgroups below it no controllers.
async fn leave_scope(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    holder: ScopeHolder,
    operation: &Operation<PodCause>,
) -> Result<(), StageFailure> {
    let (cgroups, pod) = (service.cgroups.clone(), pod.clone());
    let work = move |_: &Cancel| -> Result<(), PodCause> {
        holder.end()?;
        pod.create_cgroup(&cgroups, &pod.own_cgroup()?)?;
        Ok(())
    };
    operation
        .stage("controllers", FILES, |stage: Stage<PodCause>| async move { stage.blocking(work).await })
        .await
}

/// Starts files, cgroup and monitor process, on one thread. Folders and record come first: from then on,
/// everything that a crash leaves has an owner.
fn start_monitor(
    service: &ServiceState,
    pod: &Pod,
    has_files: bool,
    steps: &Steps<PodCause>,
) -> Result<(JoinFds, i32, Reaper), StageFailure> {
    if !has_files {
        start_files(service, pod, steps)?;
    }
    let mut cgroup = steps.step("cgroup", || {
        let path = pod.own_cgroup()?;
        let cgroup = match pod.scope() {
            Some(scope) => service.cgroups.create_without_controllers(scope, &path)?,
            None => service.cgroups.create_for_supervisor(&path)?,
        };
        Ok(cgroup.join()?)
    })?;
    let folder = service.layout.pod_state(&pod.id);
    let network = pod.config.network == NamespaceMode::Pod && pod.config.user.is_none();
    let spawn = || Ok(spawn::spawn(&service.monitor, &pod.id, &folder, &mut cgroup, network)?);
    let (pid, reaper) = steps.step("monitor", spawn)?;
    Ok((cgroup, pid, reaper))
}

/// Before anything is made: a host port in use would make all of it useless.
fn start_files(service: &ServiceState, pod: &Pod, steps: &Steps<PodCause>) -> Result<(), StageFailure> {
    let config = &pod.config;
    if config.network == NamespaceMode::Pod {
        let name = format!("{}/{}", config.namespace, config.name);
        let reserve = || Ok(service.networks.reserve_ports(&pod.id, &name, &config.port_mappings)?);
        steps.step("host ports", reserve)?;
    }
    steps.step("files", || write_files(service, pod))
}

fn write_files(service: &ServiceState, pod: &Pod) -> Result<(), PodCause> {
    private_folder(&service.layout.pod_root(&pod.id))?;
    private_folder(&service.layout.exits(&pod.id))?;
    pod.status.save()?;
    pod.files().write_names(&pod.config)?;
    if let Some(folder) = &pod.config.log_directory {
        std::fs::create_dir_all(folder)?;
    }
    Ok(())
}

async fn open_pod(
    service: &ServiceState,
    pod: &Pod,
    pid: i32,
    cgroup: JoinFds,
) -> Result<(MonitorLink, PodOpened), PodCause> {
    let socket = service.layout.socket(&pod.id);
    let link = MonitorLink::connect_fresh(&socket, MONITOR, &pod.id, pid).await?;
    pod.set_link(link.clone());
    let exits: OwnedFd = File::open(service.layout.exits(&pod.id))?.into();
    let sysctls = service.networks.pod_sysctls(&pod.config.annotations);
    let opened = link.open_pod(open_request(&pod.config, sysctls, cgroup, exits)).await?;
    Ok((link, opened))
}

fn open_request(
    config: &PodConfig,
    of_network: &'static [(&str, &str)],
    cgroup: JoinFds,
    exits: OwnedFd,
) -> OpenPod {
    let own_network = config.network == NamespaceMode::Pod;
    let defaults = sysctl::network_defaults(config.user.as_ref());
    let defaults =
        defaults.iter().map(|(name, value)| (*name, value.as_str())).chain(of_network.iter().copied());
    let defaults = defaults.filter(|(name, _)| own_network && !config.sysctls.contains_key(*name));
    let requested = config.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let sysctls =
        defaults.chain(requested).map(|(name, value)| (sysctl::path(name), value.to_owned())).collect();
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
        user: config.user.clone(),
    }
}

async fn attach(
    service: &ServiceState,
    pod: &Pod,
    opened: PodOpened,
    cancel: Cancel,
) -> Result<Vec<IpAddr>, PodCause> {
    let Some(network) = opened.network else { return Ok(vec![]) };
    let request = attach_request(pod, network, cancel);
    let netlink = request.netlink.clone();
    let attachment = service.networks.attach(request).await?;
    pod.set_netlink(netlink);
    Ok(attachment.ips)
}

/// The request to the networks for a pod.
pub(crate) fn attach_request(pod: &Pod, network: PodNetwork, cancel: Cancel) -> AttachRequest {
    AttachRequest {
        pod: pod.id.clone(),
        name: pod.config.name.clone(),
        namespace: pod.config.namespace.clone(),
        uid: pod.config.uid.clone(),
        netlink: PodNetlink::new(network.netlink),
        netns: Arc::new(network.netns),
        port_mappings: pod.config.port_mappings.clone(),
        annotations: pod.config.annotations.clone(),
        dns: pod.config.dns.clone(),
        cgroup: Some(pod.cgroup_parent().to_string()),
        cancel,
    }
}
