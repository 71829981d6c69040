//! `crisp rmi`.

use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::{ImageSpec, ImageStatusRequest, RemoveImageRequest};

use super::Client;
use super::client::refused;

/// Remove images
#[derive(Debug, clap::Args)]
pub struct Rmi {
    /// Images, by tag, digest, id or the beginning of an id
    #[arg(required = true)]
    images: Vec<String>,
}

impl Rmi {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        for image in &self.images {
            match remove(&mut client, image).await {
                Ok(()) => println!("{image}"),
                Err(error) => {
                    eprintln!("crisp: {image}: {error:#}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }
}

async fn remove(client: &mut Client, image: &str) -> anyhow::Result<()> {
    let spec = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
    // RemoveImage succeeds for an image that does not exist; a person may have mistyped its name.
    let status = ImageStatusRequest { image: spec.clone(), verbose: false };
    if client.images.image_status(status).await.map_err(refused)?.into_inner().image.is_none() {
        bail!("no such image; `crisp images` lists them all");
    }
    client.images.remove_image(RemoveImageRequest { image: spec }).await.map_err(refused)?;
    Ok(())
}
