//! CreateContainer: everything that can be decided or checked beforehand, and a folder with records.
//!
//! ```text
//!   image ─> pod ─> lease ─> folders ─> user ─> volumes ─> spec ─> records ─> known
//! ```

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::id::ContainerId;
use crisp_image_service::store::{Image, Lease};
use crisp_sandbox::{NamespaceMode, Pod};
use oci_spec::image;

use super::image_contents::{self, Looked};
use super::pid_namespace;
use crate::clock;
use crate::container::config::ContainerConfig;
use crate::container::record;
use crate::container::signal::Signal;
use crate::container::state::State;
use crate::container::status_cell::{Status, StatusCell};
use crate::container::table::Name;
use crate::container::{Container, ContainerMetadata, ImageMetadata, PidChoice, User};
use crate::error::RuntimeError;
use crate::events::Kind;
use crate::layout::Folder;
use crate::service_state::{ServiceState, cgroup_path};
use crate::spec::user::Resolved;
use crate::spec::{self, Inputs, PodFacts};
use crate::stage::{Cause, Failure, StageFailure, Steps};

const OPERATION: &str = "create_container";
/// Copying an image's volumes may take long; all else is quick.
const DEADLINE: Duration = Duration::from_secs(110);

/// Creates the container, or joins the creation of the same one (pod, name and attempt), or finds it
/// created already.
///
/// # Errors
/// What is wrong with the request, or the stage that failed; then nothing is left of it.
pub async fn create(
    service: &Arc<ServiceState>,
    pod: &str,
    config: ContainerConfig,
) -> Result<ContainerId, RuntimeError> {
    let pod = service.pods.find(pod)?;
    let name = Name::new(&pod.id, &config);
    let owned = service.clone();
    service.creates.run(name, move || async move { create_once(&owned, pod, config).await }).await
}

async fn create_once(
    service: &Arc<ServiceState>,
    pod: Arc<Pod>,
    config: ContainerConfig,
) -> Result<ContainerId, RuntimeError> {
    if let Some(twin) = service.containers.named(&Name::new(&pod.id, &config)) {
        return same_as(&twin, &config);
    }
    pod.require_ready()?;
    pid_namespace::check(&config, &pod)?;
    let pid = pid_namespace::pid_choice(service, &config.security.pid, &pod)?;
    let image = service.images.find(&config.image.image)?;
    let draft = Draft { id: ContainerId::random(), pod, config, pid, image };
    let id = draft.id.clone();
    let folder = service.layout.container(&id);
    match build(service, draft, folder.clone()).await {
        Ok(container) => {
            let pod = container.metadata.pod.clone();
            service.containers.insert(Arc::new(container));
            service.events.emit(Kind::Created, id.as_str(), &pod);
            Ok(id)
        }
        Err(failure) => {
            let undo = undo(service, folder).await.err().into_iter().collect();
            Err(Failure { subject: format!("container {id}"), operation: OPERATION, failure, undo }.into())
        }
    }
}

/// Asked for once more: the answer is the same, unless it asks for something else by now.
fn same_as(twin: &Container, config: &ContainerConfig) -> Result<ContainerId, RuntimeError> {
    let state = &twin.status().state;
    if *state == State::Created && twin.metadata.config == *config {
        return Ok(twin.id().clone());
    }
    let (name, id) = (twin.name().to_string(), twin.id().clone());
    let state = match state {
        State::Created => "was created from another configuration",
        State::Starting => "is being started",
        State::Running { .. } => "is running",
        State::Exited(_) => "has exited",
        State::Unknown { .. } => "is in an unknown state",
    };
    Err(RuntimeError::NameTaken { name, id, state })
}

struct Draft {
    id: ContainerId,
    pod: Arc<Pod>,
    config: ContainerConfig,
    pid: PidChoice,
    image: Arc<Image>,
}

async fn build(service: &Arc<ServiceState>, draft: Draft, folder: Folder) -> Result<Container, StageFailure> {
    let service = service.clone();
    let stages = service.stages(OPERATION);
    stages.blocking(DEADLINE, move |steps| build_blocking(&service, draft, folder, steps)).await
}

fn build_blocking(
    service: &ServiceState,
    draft: Draft,
    folder: Folder,
    steps: &Steps,
) -> Result<Container, StageFailure> {
    let lease = steps.step("lease", || Ok(service.images.lease(&draft.image.diff_ids)?))?;
    steps.step("folders", || make_folders(&folder))?;
    let image_config = draft.image.config.config().clone().unwrap_or_default();
    let (user, volumes) = {
        let image = Looked { id: &draft.image.id, config: &image_config, lease: &lease };
        image_contents::look(&service.users, &image, &draft.config, &folder, steps)?
    };
    let pid = steps.step("pid namespace", || pid_namespace::current_pid(service, &draft.pid))?;
    steps.step("spec", || {
        let spec = spec::build(&Inputs {
            config: &draft.config,
            image: &image_config,
            user: &user,
            pod: &pod_facts(service, &draft)?,
            host: &service.host,
            pid,
            volumes: &volumes,
            annotations: annotations(&draft),
        })?;
        let text = serde_json::to_vec(&spec).map_err(|e| Cause::Task(e.to_string()))?;
        fs::write(folder.spec(), text).map_err(Cause::file(folder.spec()))
    })?;
    steps.step("records", || commit(draft, &image_config, user, lease, folder))
}

fn make_folders(folder: &Folder) -> Result<(), Cause> {
    let private = |path: PathBuf| {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(Cause::file(&path))
    };
    private(folder.path().to_owned())?;
    private(folder.bundle())?;
    private(folder.work())?;
    // The overlay's root takes the mode of this one: programs of any user must get through it.
    let upper = folder.upper();
    fs::create_dir(&upper).map_err(Cause::file(&upper))?;
    rustix::fs::chmod(&upper, rustix::fs::Mode::from_raw_mode(0o755)).map_err(Cause::Kernel)
}

fn pod_facts(service: &ServiceState, draft: &Draft) -> Result<PodFacts, Cause> {
    let pod = &draft.pod;
    let files = pod.files();
    Ok(PodFacts {
        hostname: pod.config.own_hostname().unwrap_or_else(|| service.host.hostname.clone()),
        files: vec![
            (files.hosts, "/etc/hosts"),
            (files.resolv_conf, "/etc/resolv.conf"),
            (files.hostname, "/etc/hostname"),
        ],
        host_network: pod.config.network == NamespaceMode::Host,
        host_ipc: pod.config.ipc == NamespaceMode::Host,
        monitor_pid: pod.status().monitor_pid.unwrap_or_default(),
        cgroup: cgroup_path(pod, &draft.id)?.as_str().to_owned(),
    })
}

/// For whoever looks at a config.json: whose it is.
fn annotations(draft: &Draft) -> HashMap<String, String> {
    let pod = &draft.pod.config;
    [
        ("container-type", "container"),
        ("sandbox-id", draft.pod.id.as_str()),
        ("sandbox-name", &pod.name),
        ("sandbox-namespace", &pod.namespace),
        ("sandbox-uid", &pod.uid),
        ("container-name", &draft.config.name),
        ("image-name", &draft.config.image.image),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .collect()
}

fn commit(
    draft: Draft,
    image: &image::Config,
    user: Resolved,
    lease: Lease,
    folder: Folder,
) -> Result<Container, Cause> {
    let log_path = match (&draft.pod.config.log_directory, &draft.config.log_path) {
        (Some(directory), Some(path)) => Some(directory.join(path)),
        _ => None,
    };
    let metadata = ContainerMetadata {
        id: draft.id,
        pod: draft.pod.id.clone(),
        image: image_metadata(&draft.image, image, &draft.config),
        user: User { uid: user.uid, gid: user.gid, groups: user.groups },
        pid: draft.pid,
        created_at: clock::now(),
        log_path,
        config: draft.config,
    };
    record::write(&folder.record(), &metadata)?;
    let status = Status { state: State::Created, resources: metadata.config.resources.clone() };
    let status_cell = StatusCell::create(folder.status(), status)?;
    Ok(Container::new(metadata, folder, status_cell, Some(lease)))
}

fn image_metadata(image: &Image, config: &image::Config, asked: &ContainerConfig) -> ImageMetadata {
    let id = image.id.to_string();
    // An unreadable STOPSIGNAL is the image's mistake; TERM is what it would get elsewhere too.
    let stop_signal = config.stop_signal().as_deref().and_then(|text| {
        Signal::parse(text)
            .inspect_err(|error| tracing::warn!(image = %id, %error, "the image's STOPSIGNAL is ignored"))
            .ok()
    });
    ImageMetadata {
        reference: image.repo_digests.first().cloned().unwrap_or_else(|| id.clone()),
        name: image.repo_tags.first().cloned().unwrap_or_else(|| asked.image.image.clone()),
        diff_ids: image.diff_ids.clone(),
        stop_signal,
        id,
    }
}

async fn undo(service: &ServiceState, folder: Folder) -> Result<(), StageFailure> {
    let work = move |steps: &Steps| steps.step("undo folders", || remove_folder(folder.path()));
    service.stages(OPERATION).blocking(Duration::from_secs(30), work).await
}

/// Deletes a folder with all below; one that is not there is fine.
#[expect(clippy::disallowed_methods, reason = "not yet moved to crisp_operation::record::remove_folder")]
pub(crate) fn remove_folder(path: &Path) -> Result<(), Cause> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Cause::file(path)(error)),
        _ => Ok(()),
    }
}
