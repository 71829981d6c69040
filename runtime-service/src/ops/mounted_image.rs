//! Images as volumes: found and leased when a container is created, mounted when it starts.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use crisp_executor::rootfs;
use crisp_image_service::{Image, Lease};

use super::image_contents::View;
use crate::cause::Cause;
use crate::container::Container;
use crate::container::config::{ContainerConfig, Mount, MountedImage};
use crate::service_state::ServiceState;

/// An image that will be mounted, and its lease.
pub(super) struct Leased {
    pub image: Arc<Image>,
    pub lease: Lease,
}

/// The images that will be mounted. The sub path is checked here: it cannot appear later.
///
/// # Errors
/// [`Cause::MountedImage`].
pub(super) fn lease(service: &ServiceState, config: &ContainerConfig) -> Result<Vec<Leased>, Cause> {
    let one = |(mount, mounted): (&Mount, &MountedImage)| {
        let find = || {
            let image = service.images.find(&mounted.request.image)?;
            let lease = service.images.lease(&image.lower)?;
            if !mounted.sub_path.is_empty() {
                let view = View::new(rootfs::read_only_view(lease.layer_paths(), None)?);
                drop(View::new(rootfs::part_of(view.fd()?, &mounted.sub_path)?));
            }
            Ok(Leased { image, lease })
        };
        find().map_err(named(mount, mounted))
    };
    images(config).map(one).collect()
}

/// Detached mounts of the images by their mount points. `user` is the pod's user namespace.
///
/// # Errors
/// [`Cause::MountedImage`].
pub(super) fn mount(
    container: &Container,
    user: Option<BorrowedFd<'_>>,
) -> Result<Vec<(PathBuf, OwnedFd)>, Cause> {
    let leases = container.leases.lock().unwrap_or_else(PoisonError::into_inner);
    let config = &container.metadata.config;
    let one = |(index, (mount, mounted)): (usize, (&Mount, &MountedImage))| {
        let make = || {
            let gone = || Cause::LayersGone { image: mounted.request.image.clone() };
            let lease =
                leases.as_ref().and_then(|leases| leases.mounted.get(index)?.as_ref()).ok_or_else(gone)?;
            let view = rootfs::read_only_view(lease.layer_paths(), user)?;
            if mounted.sub_path.is_empty() {
                return Ok(view);
            }
            let view = View::new(view);
            Ok(rootfs::part_of(view.fd()?, &mounted.sub_path)?)
        };
        let made = make().map_err(named(mount, mounted))?;
        Ok((mount.container_path.clone(), made))
    };
    images(config).enumerate().map(one).collect()
}

fn images(config: &ContainerConfig) -> impl Iterator<Item = (&Mount, &MountedImage)> {
    config.mounts.iter().filter_map(|mount| Some((mount, mount.image.as_ref()?)))
}

fn named(mount: &Mount, mounted: &MountedImage) -> impl FnOnce(Cause) -> Cause {
    let (place, image) = (mount.container_path.clone(), mounted.request.image.clone());
    move |cause| Cause::MountedImage { image, place, cause: Box::new(cause) }
}
