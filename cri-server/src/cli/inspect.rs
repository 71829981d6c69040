//! `crisp inspect`: a container, a pod or an image.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;
use crisp_proto::crisp::v1::{ListNetworksRequest, Network, NetworkMember};
use crisp_proto::runtime::v1::{
    ContainerStatusRequest, ImageSpec, ImageStatusRequest, PodSandboxStatusRequest,
};
use serde_json::{Value, json};
use tonic::Code;

use super::client::refused;
use super::details::Details;
use super::inspect_document::{PodParts, container_document, health, image_document, pod_document};
use super::listing::Format;
use super::names::{Names, Target};
use super::template::Template;
use super::{Client, json};
use crate::print;

/// Print everything about containers, pods or images, as JSON
///
/// `status` and `info` are as in the CRI; the other fields have the names that docker uses.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp inspect --format '{{.State.Status}} {{.State.ExitCode}}' web
  crisp inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web
  crisp inspect -f '{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}' web
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

/// The kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Container,
    Pod,
    Image,
}

impl Inspect {
    /// Only objects of this kind, unless the command line names another one.
    pub fn only(self, kind: Kind) -> Self {
        Self { kind: self.kind.or(Some(kind)), ..self }
    }

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
    let listed = known.containers.iter().find(|c| c.id == id);
    let pod = match listed {
        Some(container) => Some(pod_parts(client, &container.pod_sandbox_id).await?),
        None => None,
    };
    let mut value = container_document(&status, &info, details.of(id), pod.as_ref());
    value["State"]["Health"] = json!(listed.and_then(|listed| details.health(listed)).map(health));
    value["status"] = json::message(&status)?;
    value["info"] = info;
    Ok(value)
}

async fn pod(client: &mut Client, id: &str) -> anyhow::Result<Value> {
    let parts = pod_parts(client, id).await?;
    let mut view = pod_document(&parts);
    view["status"] = parts.status;
    view["info"] = parts.info;
    Ok(view)
}

async fn pod_parts(client: &mut Client, id: &str) -> anyhow::Result<PodParts> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    let reply = client.runtime.pod_sandbox_status(request).await.map_err(refused)?.into_inner();
    let status = reply.status.as_ref().map(json::message).transpose()?.unwrap_or_default();
    let networks = networks(client, id).await.unwrap_or_else(|error| {
        print::warning(format_args!("crisp: the pod's networks are not shown: {error:#}"));
        Vec::new()
    });
    Ok(PodParts { status, info: json::info(&reply.info), networks })
}

/// The built-in networks that a pod is in; none of another CRI server.
async fn networks(client: &mut Client, pod: &str) -> anyhow::Result<Vec<(String, NetworkMember)>> {
    let all = match client.networks.list_networks(ListNetworksRequest {}).await {
        Ok(reply) => reply.into_inner().networks,
        Err(status) if status.code() == Code::Unimplemented => Vec::new(),
        Err(status) => return Err(refused(status)),
    };
    let of_pod = |network: Network| {
        let member = network.members.into_iter().find(|member| member.pod_sandbox_id == pod)?;
        Some((network.name, member))
    };
    Ok(all.into_iter().filter_map(of_pod).collect())
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
