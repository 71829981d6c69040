//! Runs pods in the foreground, at the same time and on one screen, until they end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::bail;
use crisp_executor::ids::PodId;
use tokio::task::JoinSet;

use super::context::{Conditions, Screen};
use super::embedded::Embedded;
use super::manifest::{Manifests, Pod, RestartPolicy, VolumeSource};
use super::pod_run::{self, PodRun};
use super::report::{Report, notice};
use super::restart::BackOff;
use super::stop_request::{StopRequest, StopRequests};
use super::streams::Streams;
use super::{pod_end, run_status};
use crate::progress::Bars;

/// Options for what is shown beside the output of containers.
#[derive(Default)]
pub struct DisplayOptions {
    /// The streams of a single container that has the whole screen.
    pub streams: Option<Arc<Streams>>,
    /// Do not show the progress of pulls.
    pub is_quiet: bool,
}

/// Runs all pods. Returns the exit code of the first pod that fails.
///
/// # Errors
/// The first error of a pod that is not a container's failure.
pub async fn run(
    embedded: &Embedded,
    manifests: Manifests,
    stop: &StopRequests,
    display: &DisplayOptions,
) -> anyhow::Result<u8> {
    let objects = Arc::new(manifests.objects);
    let pods: Vec<Pod> = manifests.pods.into_iter().map(|document| document.pod).collect();
    if let Some(pod) = pods.iter().find(|pod| embedded.is_temporary() && has_claim(pod)) {
        bail!(
            "pod {}: another crisp run is active and has the folder of named volumes, which a PersistentVolumeClaim needs: put the manifests into one run, or set --root and --state",
            pod.name
        );
    }
    let screens = screens(&pods, display);
    let mut tasks = JoinSet::new();
    for (pod, screen) in pods.into_iter().zip(screens) {
        let uid = pod.uid.clone().unwrap_or_else(|| PodId::random().short().to_owned());
        let own = StopRequests::new();
        tokio::spawn(stop.clone().pass_on_to(own.clone()));
        let run = PodRun {
            server: Arc::clone(&embedded.server),
            objects: Arc::clone(&objects),
            folder: embedded.folder().join(&uid),
            named_volumes: embedded.named_volumes(),
            uid,
            stop: own,
            report: match display.streams {
                Some(_) => Report::Failures,
                None => Report::Screen(screen.prefix.replace('/', ": ")),
            },
            screen: Some(screen),
            conditions: Conditions::new(),
            status: run_status::in_memory(),
            is_supervised: false,
            creates_only: false,
            pod,
        };
        tasks.spawn(run_to_its_end(run));
    }
    let is_one = tasks.len() == 1;
    let (mut failure, mut error) = (None, None);
    while let Some(ended) = tasks.join_next().await {
        match ended.map_err(anyhow::Error::from).and_then(|code| code) {
            Ok(0) => {}
            Ok(code) => failure = failure.or(Some(code)),
            Err(first) if error.is_none() => {
                if !is_one {
                    notice(format_args!("{first:#}"));
                }
                error = Some(first);
            }
            Err(other) => notice(format_args!("{other:#}")),
        }
    }
    error.map_or(Ok(failure.unwrap_or_default()), Err)
}

/// Runs the pod to its end and removes it. A Job starts a new pod for one that failed.
async fn run_to_its_end(run: PodRun) -> anyhow::Result<u8> {
    let mut back_off = BackOff::default();
    let tries = match run.pod.restart_policy {
        RestartPolicy::Never => run.pod.backoff_limit.unwrap_or_default(),
        RestartPolicy::Always | RestartPolicy::OnFailure => 0,
    };
    for attempt in 0.. {
        let code = match (pod_run::once(&run).await, pod_end::remove(&run).await) {
            (Ok(outcome), Ok(())) => outcome.code(),
            (Ok(_), Err(left)) => return Err(left.context("the pod has ended, but cannot be removed")),
            (Err(error), Ok(())) => return Err(error),
            (Err(error), Err(left)) => {
                return Err(error.context(format!("and the pod cannot be removed: {left:#}")));
            }
        };
        if code == 0 || attempt >= tries || run.stop.now().is_any() {
            return Ok(code);
        }
        let wait = back_off.wait(Duration::ZERO);
        run.report.emit(format_args!("the pod has failed and is run again in {} seconds", wait.as_secs()));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = run.stop.wait_for(StopRequest::is_any) => return Ok(code),
        }
    }
    Ok(0)
}

fn has_claim(pod: &Pod) -> bool {
    pod.volumes.iter().any(|volume| matches!(volume.source, VolumeSource::Claim { .. }))
}

/// If there are several pods, names of containers begin with the pod's name.
fn screens(pods: &[Pod], display: &DisplayOptions) -> Vec<Screen> {
    let prefix = |pod: &Pod| if pods.len() > 1 { format!("{}/", pod.name) } else { String::new() };
    let widths = pods.iter().flat_map(|pod| {
        let prefix = prefix(pod).len();
        pod.all_containers().map(move |container| prefix + container.name.len())
    });
    let width = widths.max().unwrap_or(0);
    let bars = (!display.is_quiet).then(|| Arc::new(Mutex::new(Bars::new())));
    let mut first = 0;
    let mut screen = |pod: &Pod| {
        let screen = Screen {
            prefix: prefix(pod),
            width,
            first,
            bars: bars.clone(),
            streams: display.streams.clone(),
        };
        first += pod.all_containers().count();
        screen
    };
    pods.iter().map(&mut screen).collect()
}
