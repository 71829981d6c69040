//! CreateContainer: makes all checks that are possible before the start, and a folder with records.
//!
//! ```text
//!   leases ─> folder ─> user ─> volumes ─> spec ─> records ─> rename ─> listed
//!            └────────── in discarded/ ─────────────┘  └─ in containers/
//! ```
//!
//! A server that ends before the rename leaves a folder that the next one deletes.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::ids::ContainerId;
use crisp_executor::plan::PidNamespace;
use crisp_executor::user_namespace::IdMappings;
use crisp_image_service::store::Image;
use crisp_operation::clock;
use crisp_operation::record;
use crisp_sandbox::{NamespaceMode, NetworkMode, Pod};
use oci_spec::image;
use rustix::fs::{Mode, chmod};

use super::image_contents::{self, ImageSource};
use super::{container_hooks, container_prepare, container_spec, mounted_image, pid_namespace};
use crate::cause::{Cause, Operation, StageFailure, Steps};
use crate::cdi::{self, Edits};
use crate::container::config::{ContainerConfig, Propagation, UserNamespaceRequest};
use crate::container::signal::Signal;
use crate::container::state::State;
use crate::container::status::Status;
use crate::container::table::Name;
use crate::container::{Container, ContainerMetadata, ImageMetadata, ImageProcess, Leases, User};
use crate::convert::{self, ConvertError};
use crate::error::RuntimeError;
use crate::events::Kind;
use crate::layout::Folder;
use crate::service_state::{ServiceState, subject};

const OPERATION: &str = "create_container";
/// Copying an image's volumes may take long; everything else is quick.
const DEADLINE: Duration = Duration::from_secs(110);

/// Creates the container. If the same one (pod, name, attempt and configuration) is being created or exists
/// already, returns its result.
///
/// # Errors
/// The request is not valid, or a stage failed; then nothing is left of it.
pub async fn create(
    service: &Arc<ServiceState>,
    pod: &str,
    config: ContainerConfig,
) -> Result<ContainerId, RuntimeError> {
    let pod = service.pods.find(pod)?;
    let name = Name::new(&pod.id, &config);
    let config = Arc::new(config);
    loop {
        let flight = service.creates.join_or_start(name.clone(), |_| {
            (config.clone(), create_once(service.clone(), pod.clone(), config.clone()))
        });
        let same = flight.shared() == &config;
        let created = flight.wait().await;
        // After a different request with the same name has ended, the result for this one depends on the
        // result of that.
        if same {
            return Ok(created?);
        }
    }
}

async fn create_once(
    service: Arc<ServiceState>,
    pod: Arc<Pod>,
    config: Arc<ContainerConfig>,
) -> Result<ContainerId, RuntimeError> {
    if let Some(existing) = service.containers.named(&Name::new(&pod.id, &config)) {
        return same_as(&existing, &config);
    }
    pod.require_ready()?;
    check(&config, &pod)?;
    let pid = pid_namespace::resolve(&service, &config.security.pid, &pod)?;
    let image = service.images.find(&config.image.image)?;
    let id = ContainerId::random();
    let what = format!("{} ({}/{}/{})", subject(&id), pod.config.namespace, pod.config.name, config.name);
    let operation = Operation::new(&service.metrics, OPERATION, what);
    let draft = Draft { id: id.clone(), pod: pod.clone(), config, pid, image };
    let result = {
        let service = service.clone();
        operation.blocking(DEADLINE, move |steps| build(&service, draft, steps)).await
    };
    let result = result.and_then(|container| list(&service, &pod, container));
    let container = operation.finish(result).await?;
    container_prepare::in_background(&service, &container, &pod);
    Ok(id)
}

/// Checks the request against the pod.
fn check(config: &ContainerConfig, pod: &Pod) -> Result<(), ConvertError> {
    let field = |name: &str| format!("config.linux.security_context.{name}");
    if config.security.privileged && !pod.config.privileged {
        return Err(convert::invalid(field("privileged"), "true, but its pod is not privileged"));
    }
    for (name, requested, is_host) in [
        ("network", config.security.host_network, pod.config.network == NetworkMode::Host),
        ("ipc", config.security.host_ipc, pod.config.ipc == NamespaceMode::Host),
    ] {
        if requested && !is_host {
            return Err(convert::invalid(
                field(&format!("namespace_options.{name}")),
                "NODE, but the pod has a namespace of its own, which its containers share",
            ));
        }
    }
    check_propagation(config, pod)?;
    let user = match &config.security.user_namespace {
        UserNamespaceRequest::OfPod => return Ok(()),
        UserNamespaceRequest::Host => None,
        UserNamespaceRequest::Own(mappings) => Some(mappings),
    };
    if user == pod.config.user.as_ref() {
        return Ok(());
    }
    let reason = "it is not that of the pod, which all its containers share";
    Err(convert::invalid(field("namespace_options.userns_options"), reason))
}

/// The kernel does not propagate mounts that are made in a user namespace to the host.
fn check_propagation(config: &ContainerConfig, pod: &Pod) -> Result<(), ConvertError> {
    let mut mounts = config.mounts.iter();
    let bidirectional = mounts.position(|mount| mount.propagation == Propagation::Bidirectional);
    match bidirectional.filter(|_| pod.config.user.is_some()) {
        None => Ok(()),
        Some(index) => {
            let reason = "bidirectional, but the pod has a user namespace: its mounts never reach the host";
            Err(convert::invalid(format!("config.mounts[{index}].propagation"), reason))
        }
    }
}

/// A repeated request gets the same response, unless it differs from the existing container.
fn same_as(existing: &Container, config: &ContainerConfig) -> Result<ContainerId, RuntimeError> {
    let state = &existing.status().state;
    if *state == State::Created && existing.metadata.config == *config {
        return Ok(existing.id().clone());
    }
    let (name, id) = (existing.name().to_string(), existing.id().clone());
    let state = match state {
        State::Created => "was created from another configuration",
        State::Starting => "is being started",
        State::Running { .. } => "is running",
        State::Exited(_) => "has exited",
        State::Unknown { .. } => "is in an unknown state",
        State::Removing { .. } => "is being removed",
    };
    Err(RuntimeError::NameTaken { name, id, state })
}

/// Makes the container visible. Fails if its pod was stopped meanwhile, because it would not be removed with
/// it.
fn list(service: &ServiceState, pod: &Pod, container: Container) -> Result<Arc<Container>, StageFailure> {
    let container = Arc::new(container);
    let mut emitter = service.emitter();
    service.containers.insert(container.clone());
    pod.require_ready().map_err(|not_ready| {
        service.containers.remove(container.id());
        StageFailure { stage: "list", cause: not_ready.into() }
    })?;
    emitter.emit(Kind::Created, &container);
    drop(emitter);
    Ok(container)
}

struct Draft {
    id: ContainerId,
    pod: Arc<Pod>,
    config: Arc<ContainerConfig>,
    pid: PidNamespace<ContainerId>,
    image: Arc<Image>,
}

fn build(service: &ServiceState, draft: Draft, steps: &Steps) -> Result<Container, StageFailure> {
    let lease = steps.step("lease", || Ok(service.images.lease(&draft.image.lower)?))?;
    let draft_folder = service.layout.discarded_container(&draft.id);
    let folder = service.layout.container(&draft.id);
    undo_folders(&draft_folder, &folder, steps);
    steps.step("folders", || make_folder(&draft_folder, draft.pod.config.user.as_ref()))?;
    let mounted = steps.step("image volumes", || mounted_image::lease(service, &draft.config))?;
    let cdi = cdi_edits(service, &draft, steps)?;
    let image_config = draft.image.config.config().clone().unwrap_or_default();
    let (mut user, volumes) = {
        let image = ImageSource { id: &draft.image.id, config: &image_config, lease: &lease };
        image_contents::read(&service.users, &image, &draft.config, &draft_folder, steps)?
    };
    let pod = draft.pod.clone();
    user.add_groups(&cdi.groups);
    let metadata = ContainerMetadata {
        mounted_images: mounted.iter().map(|one| one.image.lower.clone()).collect(),
        mounted_references: mounted.iter().map(|one| reference(&one.image)).collect(),
        cdi,
        ..metadata(draft, &image_config, user, volumes)
    };
    let status = Status::created(metadata.config.resources.clone());
    steps.step("spec", || {
        let spec = container_spec::build(service, &metadata, &status.resources, &pod)?;
        container_spec::write_if_kept(&draft_folder, &metadata, &spec)
    })?;
    steps.step("records", || {
        record::write_draft(&draft_folder.record(), &metadata)?;
        Ok(record::write_draft(&draft_folder.status(), &status)?)
    })?;
    steps.step("commit", || {
        fs::rename(draft_folder.path(), folder.path()).map_err(Cause::file(folder.path()))
    })?;
    let leases = Leases {
        root: Some(lease),
        mounted: mounted.into_iter().map(|one| Some(one.lease)).collect(),
        held: vec![],
    };
    Ok(Container::new(metadata, status, folder, Some(leases)))
}

fn cdi_edits(service: &ServiceState, draft: &Draft, steps: &Steps) -> Result<Edits, StageFailure> {
    let names = &draft.config.cdi_devices;
    if names.is_empty() {
        return Ok(Edits::default());
    }
    steps.step("CDI devices", || {
        let edits = cdi::find(names, &service.config.cdi_spec_dirs).map_err(Box::new)?;
        container_hooks::check(&edits, &draft.pod)?;
        Ok(edits)
    })
}

fn undo_folders(draft: &Folder, folder: &Folder, steps: &Steps) {
    for path in [folder.path().to_owned(), draft.path().to_owned()] {
        steps.undo("folders", move || record::remove_folder(&path).map_err(Cause::file(path)));
    }
}

/// Makes the folder and the writable layer in it. The folders for the start are made with that.
fn make_folder(folder: &Folder, user: Option<&IdMappings>) -> Result<(), Cause> {
    let path = folder.path();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Cause::file(path))?;
    // The overlay's root takes the mode of this folder: programs of any user must be able to enter it.
    let upper = folder.upper();
    fs::create_dir(&upper).map_err(Cause::file(&upper))?;
    chmod(&upper, Mode::from_raw_mode(0o755)).map_err(|errno| Cause::file(&upper)(errno.into()))?;
    match user {
        None => Ok(()),
        // The overlay's root takes the owner too.
        Some(user) => chown(&upper, user.host_uid(0), user.host_gid(0)).map_err(Cause::file(&upper)),
    }
}

fn metadata(draft: Draft, image: &image::Config, user: User, volumes: Vec<PathBuf>) -> ContainerMetadata {
    let log_path = match (&draft.pod.config.log_directory, &draft.config.log_path) {
        (Some(directory), Some(path)) => Some(directory.join(path)),
        _ => None,
    };
    ContainerMetadata {
        id: draft.id,
        pod: draft.pod.id.clone(),
        image: image_metadata(&draft.image, image, &draft.config),
        user,
        pid: draft.pid,
        volumes,
        mounted_images: Vec::new(),
        mounted_references: Vec::new(),
        cdi: Edits::default(),
        created_at: clock::now(),
        log_path,
        cgroup_parent: Some(draft.pod.cgroup_parent().clone()),
        config: Arc::unwrap_or_clone(draft.config),
    }
}

fn reference(image: &Image) -> String {
    image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string())
}

fn image_metadata(image: &Image, config: &image::Config, request: &ContainerConfig) -> ImageMetadata {
    let id = image.id.to_string();
    // An invalid STOPSIGNAL is an error of the image; other runtimes send SIGTERM then.
    let stop_signal = config.stop_signal().as_deref().and_then(|text| {
        Signal::parse(text)
            .inspect_err(|error| tracing::warn!(image = %id, %error, "the image's STOPSIGNAL is ignored"))
            .ok()
    });
    let list = |values: &Option<Vec<String>>| values.clone().unwrap_or_default();
    ImageMetadata {
        reference: reference(image),
        name: image.repo_tags.first().cloned().unwrap_or_else(|| request.image.image.clone()),
        diff_ids: image.lower.clone(),
        stop_signal,
        process: ImageProcess {
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            env: list(config.env()),
            working_dir: config.working_dir().clone(),
        },
        id,
    }
}
