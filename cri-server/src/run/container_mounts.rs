//! The mounts of a container: volumes, parts of them, the hosts file, and the file for a last message.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use crisp_proto::runtime::v1::{ImageSpec, Mount, MountPropagation as WirePropagation};

use super::context::Context;
use super::environment::lookup;
use super::manifest::{Container, Propagation, VolumeMount, VolumeSource, expand, is_inside};
use super::volumes::{Part, in_own_thread};
use crate::server::layout;

/// Time limit for a part of a volume, whose file system may not answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Makes missing files and lists all mounts.
///
/// # Errors
/// A part of a volume cannot be mounted, or the file for the message cannot be made.
pub async fn mounts(
    context: &Context,
    container: &Container,
    env: &[(String, Vec<u8>)],
    images: &BTreeMap<String, String>,
) -> anyhow::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for (index, mount) in container.mounts.iter().enumerate() {
        let sub_path = sub_path(mount, env).with_context(|| format!("volumeMounts[{index}]"))?;
        // The manifest was checked: every mount has its volume.
        let Some(volume) = context.pod.volumes.iter().find(|volume| volume.name == mount.volume) else {
            continue;
        };
        let mut wire = wire_mount(mount, volume.source.is_read_only());
        match (&volume.source, context.volumes.path(&mount.volume)) {
            (VolumeSource::Image { reference, .. }, _) => {
                let image = images.get(reference).cloned().unwrap_or_default();
                wire.image = Some(ImageSpec { image, ..ImageSpec::default() });
                wire.image_sub_path = sub_path;
            }
            (_, Some(path)) if sub_path.is_empty() => wire.host_path = path.display().to_string(),
            (_, Some(path)) => {
                let target = layout::run_sub_path(&context.folder, &container.name, index);
                wire.host_path = target.display().to_string();
                bind(path, &sub_path, &target).await.with_context(|| format!("volumeMounts[{index}]"))?;
            }
            (_, None) => continue,
        }
        mounts.push(wire);
    }
    mounts.extend(context.hosts.as_ref().map(|path| file("/etc/hosts", path)));
    let message = layout::run_message(&context.folder, &container.name);
    empty_file(&message).with_context(|| format!("cannot make {}", message.display()))?;
    mounts.push(file(&container.message_path, &message));
    Ok(mounts)
}

fn wire_mount(mount: &VolumeMount, read_only: bool) -> Mount {
    Mount {
        container_path: mount.path.clone(),
        readonly: mount.read_only || read_only,
        recursive_read_only: mount.recursive_read_only,
        propagation: match mount.propagation {
            Propagation::Private => WirePropagation::PropagationPrivate,
            Propagation::HostToContainer => WirePropagation::PropagationHostToContainer,
            Propagation::Bidirectional => WirePropagation::PropagationBidirectional,
        }
        .into(),
        ..Mount::default()
    }
}

fn file(container_path: &str, host_path: &Path) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        ..Mount::default()
    }
}

fn sub_path(mount: &VolumeMount, env: &[(String, Vec<u8>)]) -> anyhow::Result<String> {
    if !mount.sub_path_is_expression {
        return Ok(mount.sub_path.clone());
    }
    let path = expand(&mount.sub_path, |name| lookup(env, name));
    anyhow::ensure!(is_inside(&path), "subPathExpr: {path:?} must be relative, without \"..\"");
    anyhow::ensure!(!path.contains("$("), "subPathExpr: {path:?} names a variable that is not set");
    Ok(path)
}

/// Opening the path may take forever, so it runs in a thread with a deadline. The mount itself cannot hang
/// and is made outside of the thread: a thread that missed its deadline mounts nothing.
async fn bind(volume: &Path, sub_path: &str, target: &Path) -> anyhow::Result<()> {
    let (volume, part) = (volume.to_owned(), sub_path.to_owned());
    let open = move |_: &dyn Fn() -> bool| Part::open(&volume, &part);
    let part = in_own_thread(target, DEADLINE, open, drop).await;
    let part = part.with_context(|| format!("subPath {sub_path}"))?;
    let target = target.to_owned();
    let mounted = tokio::task::spawn_blocking(move || part?.mount(&target)).await?;
    mounted.with_context(|| format!("subPath {sub_path}"))
}

/// Makes an empty file that every user of the container can write.
fn empty_file(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    fs::write(path, "")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}
