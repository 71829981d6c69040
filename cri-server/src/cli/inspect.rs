//! `crisp inspect`: a container, a pod or an image.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;
use crisp_proto::runtime::v1::{
    ContainerStatusRequest, ImageSpec, ImageStatusRequest, PodSandboxStatusRequest,
};
use serde_json::{Value, json};

use super::client::refused;
use super::details::Details;
use super::inspect_document::{container_document, image_document, pod_document};
use super::listing::Format;
use super::names::{Names, Target};
use super::template::Template;
use super::{Client, json};

/// Print everything about containers, pods or images, as JSON
///
/// `status` and `info` are as in the CRI; the other fields have the names that docker uses.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp inspect --format '{{.State.Status}} {{.State.ExitCode}}' web
  crisp inspect -f '{{.NetworkSettings.IPAddress}}' pod/shop
  crisp inspect -f '{{range .Mounts}}{{.Source}} {{end}}' web
  crisp inspect --type image busybox")]
pub struct Inspect {
    /// A template, as '{{.State.Pid}}', '{{json .Config}}' or '{{index .Config.Labels \"app\"}}'
    #[arg(long, short, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<String>,
    /// Only objects of this kind
    #[arg(long = "type", value_enum, value_name = "KIND")]
    kind: Option<Kind>,
    /// Output format
    #[arg(long, short, value_enum, default_value = "json")]
    output: Format,
    /// Containers, pods or images, as ids, beginnings of ids or names
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Container,
    Pod,
    Image,
}

impl Inspect {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let template = self.format.as_deref().map(Template::parse).transpose()?;
        let known = Names::load(&mut client).await?;
        for name in &self.names {
            let value = self.find(&mut client, &known, name).await?;
            match &template {
                Some(template) => writeln!(std::io::stdout(), "{}", template.render(&value)?)?,
                None if self.output.print(|| Ok(value.clone()))? => {}
                None => json::print(&value)?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn find(&self, client: &mut Client, known: &Names, name: &str) -> anyhow::Result<Value> {
        let target = match self.kind {
            Some(Kind::Container) => known.container(name).map(Target::Container),
            Some(Kind::Pod) => known.pod(name.strip_prefix("pod/").unwrap_or(name)).map(Target::Pod),
            Some(Kind::Image) => Err(anyhow::anyhow!("no image {name:?}")),
            None => known.either(name),
        };
        match target {
            Ok(Target::Container(c)) => container(client, known, &c.id).await,
            Ok(Target::Pod(p)) => pod(client, &p.id).await,
            Err(error) if matches!(self.kind, Some(Kind::Container | Kind::Pod)) => Err(error),
            Err(error) => match image(client, name).await? {
                Some(value) => Ok(value),
                None => bail!("{error:#}; nor is there such an image"),
            },
        }
    }
}

async fn container(client: &mut Client, known: &Names, id: &str) -> anyhow::Result<Value> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let reply = client.runtime.container_status(request).await.map_err(refused)?.into_inner();
    let details = Details::load(client).await?;
    let (status, info) = (reply.status.unwrap_or_default(), json::info(&reply.info));
    let pod_id = known.containers.iter().find(|c| c.id == id).map(|c| c.pod_sandbox_id.clone());
    let pod = match pod_id {
        Some(id) => pod_status(client, &id).await.ok(),
        None => None,
    };
    let mut value = container_document(&status, &info, details.of(id), pod.as_ref());
    value["status"] = json::message(&status)?;
    value["info"] = info;
    Ok(value)
}

async fn pod(client: &mut Client, id: &str) -> anyhow::Result<Value> {
    let value = pod_status(client, id).await?;
    let mut view = pod_document(&value);
    view["status"] = value["status"].clone();
    view["info"] = value["info"].clone();
    Ok(view)
}

async fn pod_status(client: &mut Client, id: &str) -> anyhow::Result<Value> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    let reply = client.runtime.pod_sandbox_status(request).await.map_err(refused)?.into_inner();
    let status = reply.status.as_ref().map(json::message).transpose()?;
    Ok(json!({ "status": status, "info": json::info(&reply.info) }))
}

async fn image(client: &mut Client, name: &str) -> anyhow::Result<Option<Value>> {
    let spec = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    let request = ImageStatusRequest { image: spec, verbose: true };
    let reply = client.images.image_status(request).await.map_err(refused)?.into_inner();
    let Some(image) = &reply.image else { return Ok(None) };
    let info = json::info(&reply.info);
    let mut value = image_document(image, &info);
    value["status"] = json::message(image)?;
    value["info"] = info;
    Ok(Some(value))
}
