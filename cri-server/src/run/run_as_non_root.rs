//! `runAsNonRoot`: when the manifest names no user, the user of the image decides.

use std::collections::BTreeMap;

use anyhow::bail;
use crisp_image_service::ImageService;
use crisp_proto::runtime::v1::image_service_server::ImageService as _;
use crisp_proto::runtime::v1::{ImageSpec, ImageStatusRequest};
use tonic::Request;

use super::manifest::{Container, Pod};
use crate::rpc_error::refused;

/// Checks one container, whose image is in `ids`.
///
/// # Errors
/// Its image's user is root, or is a name that cannot be resolved to an id.
pub async fn check(
    images: &ImageService,
    ids: &BTreeMap<String, String>,
    pod: &Pod,
    container: &Container,
) -> anyhow::Result<()> {
    let (own, common) = (&container.security, &pod.security);
    if !own.run_as_non_root.unwrap_or(common.run_as_non_root) {
        return Ok(());
    }
    let name = &container.name;
    match own.run_as_user.or(common.run_as_user) {
        Some(0) => bail!("container {name}: runAsNonRoot and runAsUser 0 exclude each other"),
        Some(_) => return Ok(()),
        None => {}
    }
    let image = ids.get(&container.image).cloned().unwrap_or_default();
    let request =
        ImageStatusRequest { image: Some(ImageSpec { image, ..ImageSpec::default() }), verbose: false };
    let reply = images.image_status(Request::new(request)).await.map_err(refused)?;
    let image = reply.into_inner().image.unwrap_or_default();
    match (image.uid.map(|uid| uid.value), image.username.as_str()) {
        (Some(uid), _) if uid != 0 => Ok(()),
        (None, user) if !user.is_empty() && user != "root" => {
            bail!(
                "container {name}: runAsNonRoot, but the image names its user {user} without a number, which may be root: set runAsUser"
            )
        }
        _ => bail!("container {name}: runAsNonRoot, but the image runs as root: set runAsUser"),
    }
}
