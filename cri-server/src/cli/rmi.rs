//! `crisp rmi`.

use std::process::ExitCode;

use anyhow::bail;
use crisp_image_service::Reference;
use crisp_proto::runtime::v1::{ImageSpec, ImageStatusRequest, RemoveImageRequest};

use super::Client;
use super::client::refused;
use super::each::each;
use super::names::{Names, container_name};

/// Remove images, or one name of an image that has several
#[derive(Debug, clap::Args)]
pub struct Rmi {
    /// Also remove images that containers use; the containers keep their files
    #[arg(long, short)]
    force: bool,
    /// Images, by tag, digest, id or the beginning of an id
    #[arg(required = true)]
    images: Vec<String>,
}

impl Rmi {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let names = Names::load(&mut client).await?;
        Ok(each(&self.images, async |image| remove(&mut client, &names, image, self.force).await).await)
    }
}

async fn remove(client: &mut Client, names: &Names, image: &str, force: bool) -> anyhow::Result<()> {
    let spec = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
    // RemoveImage succeeds for an image that does not exist, but a person may have mistyped the name.
    let status = ImageStatusRequest { image: spec.clone(), verbose: false };
    let Some(found) = client.images.image_status(status).await.map_err(refused)?.into_inner().image else {
        bail!("no such image; `crisp images` lists them all");
    };
    // An image with several names stays when one of them is removed.
    let goes = found.repo_tags.len() < 2 || !found.repo_tags.iter().any(|tag| same_name(tag, image));
    let user = names.containers.iter().find(|container| container.image_id == found.id);
    if let Some(user) = user.filter(|_| goes && !force) {
        let pod = names.pod_name(&user.pod_sandbox_id);
        bail!("the container {pod}/{} has it: remove that first, or use -f", container_name(user));
    }
    client.images.remove_image(RemoveImageRequest { image: spec }).await.map_err(refused)?;
    Ok(())
}

fn same_name(tag: &str, text: &str) -> bool {
    Reference::parse(text).ok().and_then(|reference| reference.repo_tag()).as_deref() == Some(tag)
}
