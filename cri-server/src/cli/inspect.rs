//! `crisp inspect`: a container, a pod or an image.

use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::{
    ContainerStatusRequest, ImageSpec, ImageStatusRequest, PodSandboxStatusRequest,
};
use serde_json::{Value, json};

use super::client::refused;
use super::names::{Names, Target};
use super::{Client, json};

/// Print everything about containers, pods or images, as JSON
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Containers, pods or images, as ids, beginnings of ids or names
    #[arg(required = true)]
    names: Vec<String>,
}

impl Inspect {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        for name in &self.names {
            let value = match known.either(name) {
                Ok(Target::Container(c)) => container(&mut client, &c.id).await?,
                Ok(Target::Pod(p)) => pod(&mut client, &p.id).await?,
                Err(error) => match image(&mut client, name).await? {
                    Some(value) => value,
                    None => bail!("{error:#}; nor is there such an image"),
                },
            };
            json::print(&value)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn container(client: &mut Client, id: &str) -> anyhow::Result<Value> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let reply = client.runtime.container_status(request).await.map_err(refused)?.into_inner();
    Ok(
        json!({ "status": reply.status.as_ref().map(json::message).transpose()?, "info": json::info(&reply.info) }),
    )
}

async fn pod(client: &mut Client, id: &str) -> anyhow::Result<Value> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    let reply = client.runtime.pod_sandbox_status(request).await.map_err(refused)?.into_inner();
    Ok(
        json!({ "status": reply.status.as_ref().map(json::message).transpose()?, "info": json::info(&reply.info) }),
    )
}

async fn image(client: &mut Client, name: &str) -> anyhow::Result<Option<Value>> {
    let spec = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    let request = ImageStatusRequest { image: spec, verbose: true };
    let reply = client.images.image_status(request).await.map_err(refused)?.into_inner();
    let Some(image) = &reply.image else { return Ok(None) };
    Ok(Some(json!({ "status": json::message(image)?, "info": json::info(&reply.info) })))
}
