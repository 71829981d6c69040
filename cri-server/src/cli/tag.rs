//! `crisp tag`: gives an image another name.

use std::process::ExitCode;

use crisp_proto::crisp::v1::TagImageRequest;

use super::Client;
use super::client::refused;

/// Give an image another tag; an image that had the tag loses it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  crisp tag busybox:1 registry.example.org/tools/busybox:stable")]
pub struct Tag {
    /// Image, by tag, digest, id or the beginning of an id
    image: String,
    /// The new name, as NAME or NAME:TAG
    tag: String,
}

impl Tag {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let request = TagImageRequest { image: self.image, tag: self.tag };
        client.store.tag(request).await.map_err(refused)?;
        Ok(ExitCode::SUCCESS)
    }
}
