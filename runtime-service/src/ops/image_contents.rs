//! Reads an image's files for CreateContainer: the user, and the contents of its volumes.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crisp_executor::rootfs;
use crisp_image_service::ImageId;
use crisp_image_service::store::Lease;
use oci_spec::image;
use rustix::io::Errno;

use super::{image_volume, volume_copy};
use crate::cause::{Cause, StageFailure, Steps};
use crate::container::User;
use crate::container::config::ContainerConfig;
use crate::layout::Folder;
use crate::spec;
use crate::spec::copy_up;
use crate::spec::user::Users;

/// An image and the paths of its layers.
pub(super) struct ImageSource<'a> {
    pub id: &'a ImageId,
    pub config: &'a image::Config,
    pub lease: &'a Lease,
}

/// Resolves the user, and copies the image's files at its volumes into the container's folder. Returns the
/// user and the volumes' paths. Marked mounts of the request get the image's files too. The image is mounted only if one of
/// these needs it.
pub(super) fn read(
    users: &Users,
    image: &ImageSource<'_>,
    config: &ContainerConfig,
    folder: &Folder,
    steps: &Steps,
) -> Result<(User, Vec<PathBuf>), StageFailure> {
    let (security, of_image) = (&config.security, image.config.user().as_deref().unwrap_or_default());
    let of_image_volumes = image.config.volumes().as_deref().unwrap_or_default();
    let volumes = steps.step("volumes", || image_volume::places(of_image_volumes, &config.mounts))?;
    let name = spec::user::requested(security, of_image);
    let known = users.get(image.id, &name);
    let marked = copy_up::mounts(config).into_iter().filter(|mount| volume_copy::is_wanted(mount));
    let marked: Vec<_> = marked.collect();
    if let Some(user) = known.as_ref().filter(|_| volumes.is_empty() && marked.is_empty()) {
        return Ok((spec::user::with_groups(user, security), volumes));
    }
    let view = steps.step("image view", || Ok(rootfs::read_only_view(image.lease.layer_paths(), None)?))?;
    let view = View::new(view);
    let user = match known {
        Some(user) => user,
        None => steps.step("user", || Ok(users.resolve(image.id, &name, view.fd()?)?))?,
    };
    steps.step("volumes", || image_volume::fill(view.fd()?, folder, &volumes, steps.cancel()))?;
    for mount in marked {
        steps.step("volumes", || volume_copy::fill(view.fd()?, mount, steps.cancel()))?;
    }
    Ok((spec::user::with_groups(&user, security), volumes))
}

/// An image's files, mounted read-only. Closing the last descriptor of a detached mount takes the kernel
/// milliseconds (it waits for every CPU to pass a quiescent state), so another thread closes it.
pub(super) struct View(Option<OwnedFd>);

impl View {
    pub(super) fn new(view: OwnedFd) -> Self {
        Self(Some(view))
    }

    pub(super) fn fd(&self) -> Result<&OwnedFd, Cause> {
        self.0.as_ref().ok_or(Cause::System { action: "read the image's files", errno: Errno::BADF })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let fd = self.0.take();
        tokio::task::spawn_blocking(move || drop(fd));
    }
}
