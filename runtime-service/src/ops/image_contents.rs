//! A look into an image without mounting it for good.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crisp_executor::rootfs;
use crisp_image_service::ImageId;
use crisp_image_service::store::Lease;
use oci_spec::image;

use super::image_volume;
use crate::container::config::ContainerConfig;
use crate::layout::Folder;
use crate::spec;
use crate::spec::user::{Resolved, Users};
use crate::stage::{Cause, StageFailure, Steps};

/// An image and where its layers are.
pub(super) struct Looked<'a> {
    pub id: &'a ImageId,
    pub config: &'a image::Config,
    pub lease: &'a Lease,
}

/// Who the user is, and what the image's volumes hold (copied to the container's folder).
pub(super) fn look(
    users: &Users,
    image: &Looked<'_>,
    config: &ContainerConfig,
    folder: &Folder,
    steps: &Steps,
) -> Result<(Resolved, Vec<(PathBuf, PathBuf)>), StageFailure> {
    let (security, of_image) = (&config.security, image.config.user().as_deref().unwrap_or_default());
    let wanted = image_volume::wanted(image.config.volumes().as_deref().unwrap_or_default(), &config.mounts);
    let name = spec::user::requested(security, of_image);
    let known = users.get(image.id, &name);
    if let Some(user) = known.as_ref().filter(|_| wanted.is_empty()) {
        return Ok((spec::user::with_groups(user, security), vec![]));
    }
    let view =
        View(Some(steps.step("image view", || Ok(rootfs::read_only_view(image.lease.layer_paths())?))?));
    let user = match known {
        Some(user) => user,
        None => steps.step("user", || Ok(users.resolve(image.id, &name, view.fd()?)?))?,
    };
    let volumes = steps.step("volumes", || image_volume::make(view.fd()?, folder, &wanted))?;
    Ok((spec::user::with_groups(&user, security), volumes))
}

/// An image without anything writable above it. Closing the last descriptor of a detached mount takes
/// the kernel milliseconds (it waits for every CPU to pass a quiescent state), so nobody waits for it.
struct View(Option<OwnedFd>);

impl View {
    fn fd(&self) -> Result<&OwnedFd, Cause> {
        self.0.as_ref().ok_or(Cause::Kernel(rustix::io::Errno::BADF))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let fd = self.0.take();
        tokio::task::spawn_blocking(move || drop(fd));
    }
}
