//! Makes a pod: monitor, namespaces, network. A stage that fails undoes them all.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crisp_executor::ids::PodId;
use crisp_operation::{Cancel, Operation, Stage, Steps};

use super::monitor_start::{self, FILES, MONITOR, Started};
use super::{pod_joined, pod_remove, pod_watch, teardown};
use crate::config::{InvalidPod, PodConfig};
use crate::error::{PodCause, PodError, StageFailure};
use crate::link::PodNetwork;
use crate::namespace::{NetworkMode, PidMode};
use crate::network::{AttachRequest, PodNetlink};
use crate::pod::Pod;
use crate::pod::cgroups::PodCgroups;
use crate::pod::record::{PodMetadata, PodRecord};
use crate::pod::resolv_conf::{NetworkDns, is_without_server};
use crate::pod::state::{PodState, PodStatus};
use crate::service_state::{PodEvent, ServiceState};
use crate::systemd::{Scope, ScopeHolder, Systemd};

const OPERATION: &str = "run_pod";
/// Files and cgroup, the process of the monitor, and its namespaces.
const MONITOR_STEPS: Duration = Duration::from_secs(30);
/// Longer than systemd's own deadline, whose error names the step that it waited for.
const SCOPE: Duration = Duration::from_secs(75);

/// See [`Pods::run`](crate::Pods::run). Equal requests must not run in parallel.
pub(crate) async fn run(
    service: &Arc<ServiceState>,
    config: PodConfig,
    cancel: Cancel,
) -> Result<PodId, PodError> {
    if let Some(id) = existing(service, &config).await? {
        return Ok(id);
    }
    let config = pod_joined::resolve(service, config)?;
    let (id, pid) = (PodId::random(), config.pid);
    PodCgroups::of(&id, config.cgroup_parent.as_ref(), service.cgroup_driver()).map_err(InvalidPod::from)?;
    let subject = format!("pod {id} ({}/{})", config.namespace, config.name);
    let metadata = PodMetadata::new(id.clone(), config, service.cgroup_driver());
    let record = PodRecord { metadata, status: PodStatus::starting() };
    let pod = Pod::new(&service.layout, record);
    let mut operation = Operation::cancelled_by(&service.metrics, OPERATION, subject, cancel);
    let turn = operation.turn(service.lock(&id, OPERATION)).await?;
    operation.hold(turn);
    let made = make(service, &pod, &operation).await;
    match operation.finish(made).await {
        Ok(started) => {
            service.table.insert(&pod);
            service.emit(PodEvent::Made(pod.clone()));
            pod_watch::watch(service, &pod, Some(started.link), pid == PidMode::Pod);
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
) -> Result<Started, StageFailure> {
    let time = service.networks.time_of_attach(&pod.config.annotations);
    register_undo(service, pod, operation, time);
    let scope = match (&service.systemd, pod.scope()) {
        (Some(systemd), Some(path)) => {
            let description = format!("Crisp pod {}/{}", pod.config.namespace, pod.config.name);
            let scope = Scope::of(&pod.id, path, description);
            Some(make_scope(service, systemd, &scope, pod, operation).await?)
        }
        _ => None,
    };
    let Some(holder) = scope else { return make_without_scope(service, pod, time, operation).await };
    let (of_start, of_pod) = (service.clone(), pod.clone());
    let work = move |steps: &Steps<PodCause>| monitor_start::start(&of_start, &of_pod, true, steps);
    let mut started = operation.blocking(MONITOR_STEPS, work).await?;
    let network = started.network.take();
    // In parallel: the second step waits for an RCU grace period of the kernel.
    let (ips, controllers) = tokio::join!(
        attach_in_stage(service, pod, network, time, operation),
        leave_scope(service, pod, holder, operation)
    );
    let ips = ips?;
    controllers?;
    commit_in_stage(service, pod, started, ips, operation).await
}

/// Makes the pod on one thread, except for networks of CNI plugins.
async fn make_without_scope(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    time: Duration,
    operation: &Operation<PodCause>,
) -> Result<Started, StageFailure> {
    let has_own = pod.config.network == NetworkMode::Pod;
    let is_whole = !has_own || service.networks.are_built_in(&pod.config.annotations);
    let work = {
        let (service, pod) = (service.clone(), pod.clone());
        move |steps: &Steps<PodCause>| {
            let mut started = monitor_start::start(&service, &pod, false, steps)?;
            if is_whole {
                let network = started.network.take();
                let attach = || attach_here(&service, &pod, network, steps.cancel().clone());
                let ips = steps.step_within("network", time, attach)?;
                commit(&service, &pod, &mut started, &ips, steps)?;
            }
            Ok(started)
        }
    };
    let deadline = match (has_own, is_whole) {
        (false, _) => MONITOR_STEPS + FILES,
        (true, true) => MONITOR_STEPS + time + FILES,
        (true, false) => MONITOR_STEPS,
    };
    let mut started = operation.blocking(deadline, work).await?;
    if is_whole {
        return Ok(started);
    }
    let ips = attach_in_stage(service, pod, started.network.take(), time, operation).await?;
    commit_in_stage(service, pod, started, ips, operation).await
}

/// Completes the files in /etc, and records that the pod is ready.
fn commit(
    service: &ServiceState,
    pod: &Pod,
    started: &mut Started,
    ips: &[IpAddr],
    steps: &Steps<PodCause>,
) -> Result<(), StageFailure> {
    let names = std::mem::replace(&mut started.names, Ok(()));
    steps.step("commit", || {
        names?;
        if pod.config.network == NetworkMode::Pod {
            pod.files().write_hosts(&pod.config, ips)?;
        }
        let (resolver, given) = (service.networks.resolver(&pod.id), service.networks.given_dns(&pod.id));
        let dns = NetworkDns { resolver, given };
        if dns != NetworkDns::default() {
            pod.files().write_resolv_conf(&pod.config, &dns)?;
        }
        if !ips.is_empty() && pod.config.network == NetworkMode::Pod && is_without_server(&pod.config.dns, &dns) {
            tracing::warn!(
                pod = %pod.id, name = pod.config.name,
                "names are not resolved in the pod: it reaches none of the host's resolvers, which are on the loopback interface or link-local; give it others (--dns, dnsConfig.nameservers)"
            );
        }
        pod.status.update(|status| status.ready(started.pid, ips))?;
        Ok(())
    })
}

async fn commit_in_stage(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    mut started: Started,
    ips: Vec<IpAddr>,
    operation: &Operation<PodCause>,
) -> Result<Started, StageFailure> {
    let (service, pod) = (service.clone(), pod.clone());
    let work = move |steps: &Steps<PodCause>| {
        commit(&service, &pod, &mut started, &ips, steps)?;
        Ok(started)
    };
    operation.blocking(FILES, work).await
}

/// The undo steps of all stages. They run from the last to the first: processes end before their addresses
/// are released, and the record is removed last, unless something of the pod is left.
fn register_undo(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    operation: &Operation<PodCause>,
    time: Duration,
) {
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
    let work = move |steps: &Steps<PodCause>| monitor_start::start_files(&service, &files_of, steps);
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

async fn attach_in_stage(
    service: &ServiceState,
    pod: &Pod,
    network: Option<PodNetwork>,
    time: Duration,
    operation: &Operation<PodCause>,
) -> Result<Vec<IpAddr>, StageFailure> {
    let attach = |stage: Stage<PodCause>| async move {
        let Some(network) = network else { return pod_joined::addresses(service, &pod.config) };
        let request = attach_request(pod, network, stage.cancel().clone());
        let netlink = request.netlink.clone();
        let attachment = service.networks.attach(request).await?;
        pod.set_netlink(netlink);
        Ok(attachment.ips)
    };
    operation.stage("network", time, attach).await
}

/// Attaches the pod to its built-in networks, on this thread.
fn attach_here(
    service: &ServiceState,
    pod: &Pod,
    network: Option<PodNetwork>,
    cancel: Cancel,
) -> Result<Vec<IpAddr>, PodCause> {
    let Some(network) = network else { return pod_joined::addresses(service, &pod.config) };
    let request = attach_request(pod, network, cancel);
    let netlink = request.netlink.clone();
    let attachment = service.networks.attach_here(request)?;
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
