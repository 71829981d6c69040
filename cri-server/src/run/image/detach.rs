//! `crisp run -d IMAGE`: the server supervises the pod; crisp prints the container's id.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use crisp_proto::crisp::v1::standalone_client::StandaloneClient;
use crisp_proto::crisp::v1::{
    CreateStandaloneRequest, RunManifestsRequest, StandaloneEvent, TakeDownRequest,
};
use crisp_proto::runtime::v1::{
    Container, ContainerFilter, ImageSpec, ImageStatusRequest, ListContainersRequest,
};
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::super::detached;
use super::super::manifest::Manifests;
use super::super::report::notice;
use super::super::streams::start_error;
use super::mounts::MountOption;
use super::{ImageRun, Options, Pull, SOURCE, network, write_id};
use crate::cli::client::Client;
use crate::cli::names::Names;
use crate::cli::{endpoint, pull};
use crate::config::Settings;
use crate::print;
use crate::progress::Bars;
use crate::rpc_error::refused;

/// The time at which the container is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Now,
    /// At a `crisp start`.
    Later,
}

/// Starts or creates the pod, and prints the container's id once it runs or is there.
///
/// # Errors
/// There is no server or no image, or the server refuses.
pub async fn detach(
    mut run: ImageRun,
    settings: &Settings,
    replace: bool,
    start: Start,
) -> anyhow::Result<ExitCode> {
    let address = endpoint::choose(settings)?;
    let mut standalone = detached::connect(&address).await?;
    let mut client = Client::connect(&address).await?;
    if let Some(word) = network::joined_mut(&mut run.options) {
        *word = resolve(&Names::load(&mut client).await?, word)?;
    }
    let exposed = get_image(&mut client, &run.image, &run.options).await?;
    for image in run.options.mount.iter().filter_map(MountOption::image) {
        get_image(&mut client, image, &run.options).await?;
    }
    // Pulled here, because the server does not know the logins of this user.
    if run.options.pull != Some(Pull::Never) {
        run.options.pull = Some(Pull::Missing);
    }
    let manifests = run.manifests(&exposed, true)?;
    let source = format!("{SOURCE} {}", run.image);
    let documents = manifests.all_documents().map(ToString::to_string).collect();
    let events = match start {
        Start::Now => {
            standalone
                .run_manifests(RunManifestsRequest { source, documents, replace, create_only: false })
                .await
        }
        Start::Later => standalone.create(CreateStandaloneRequest { source, documents, replace }).await,
    };
    let mut events = events.map_err(|status| unknown(start, status))?.into_inner();
    let mut container = None;
    while let Some(event) = events.message().await.map_err(refused)? {
        container = find(&mut client, &run.uid).await?.or(container);
        if let Some((code, why)) = failure(&event, container.as_ref()) {
            notice(why);
            undo(&mut standalone, &manifests, &run.uid).await;
            return Ok(ExitCode::from(code));
        }
    }
    let container = container.context("the server has ended the run without a container")?;
    write_id(&run.options, &container.id)?;
    print::line(container.id)?;
    Ok(ExitCode::SUCCESS)
}

/// The error of a refused request, also for an older server.
fn unknown(start: Start, status: Status) -> anyhow::Error {
    if start == Start::Later && status.code() == Code::Unimplemented {
        return anyhow!(
            "the server cannot create containers for a later start: it is older than this program"
        );
    }
    detached::unknown(status)
}

/// The value of --network with the name of the pod and of its namespace, by which the server finds it at each
/// start.
fn resolve(names: &Names, word: &str) -> anyhow::Result<String> {
    let pod = match word.strip_prefix(network::CONTAINER).map(|name| (name, names.container(name))) {
        Some((_, Ok(container))) => names.pod(&container.pod_sandbox_id)?,
        Some((name, Err(error))) => names.pod(name).map_err(|_| error)?,
        None => names.pod(word.trim_start_matches(network::POD))?,
    };
    let metadata = pod.metadata.clone().unwrap_or_default();
    Ok(format!("{}{}/{}", network::POD, metadata.namespace, metadata.name))
}

/// Pulls the image by its policy, with the logins of this user. Returns the ports that it exposes.
async fn get_image(client: &mut Client, image: &str, options: &Options) -> anyhow::Result<Vec<String>> {
    let policy = options.pull.unwrap_or(Pull::Missing);
    let found = look_up(client, image).await?;
    let found = match (policy, found) {
        (Pull::Missing | Pull::Never, Some(found)) => found,
        (Pull::Never, None) => bail!("image {image} is not here, and --pull is never"),
        (Pull::Always, _) | (Pull::Missing, None) => {
            let mut bars = (!options.quiet).then(Bars::new);
            pull::with_login(client, image, bars.as_mut()).await?;
            look_up(client, image).await?.with_context(|| format!("image {image} is gone"))?
        }
    };
    Ok(if options.publish_all { exposed(&found) } else { Vec::new() })
}

/// The exposed ports of an image. None when the server does not have it.
async fn look_up(client: &mut Client, image: &str) -> anyhow::Result<Option<BTreeMap<String, String>>> {
    let image = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
    let request = ImageStatusRequest { image, verbose: true };
    let reply = client.images.image_status(request).await.map_err(refused)?.into_inner();
    Ok(reply.image.map(|_| reply.info))
}

fn exposed(info: &BTreeMap<String, String>) -> Vec<String> {
    let info: Value = info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let ports = info["imageSpec"]["config"]["ExposedPorts"].as_object();
    ports.map(|ports| ports.keys().cloned().collect()).unwrap_or_default()
}

/// The newest container of the pod.
async fn find(client: &mut Client, uid: &str) -> anyhow::Result<Option<Container>> {
    let selector = BTreeMap::from([("io.kubernetes.pod.uid".to_owned(), uid.to_owned())]);
    let filter = ContainerFilter { label_selector: selector, ..ContainerFilter::default() };
    let request = ListContainersRequest { filter: Some(filter) };
    let all = client.runtime.list_containers(request).await.map_err(refused)?.into_inner().containers;
    Ok(all.into_iter().max_by_key(|container| container.created_at))
}

/// The exit code and the reason, if the container has not started and will not.
fn failure(event: &StandaloneEvent, container: Option<&Container>) -> Option<(u8, String)> {
    let StandaloneEvent { pod, text, is_failure, .. } = event;
    if let Some((_, reason)) = text.split_once(" cannot be started: ") {
        let code = u8::try_from(start_error(reason)).unwrap_or(125);
        return Some((code, format!("{pod} cannot be started: {reason}")));
    }
    // A container that failed did start.
    (*is_failure && container.is_none()).then(|| (125, format!("{pod}: {text}")))
}

/// Removes the pod again, unless another pod has its name.
async fn undo(standalone: &mut StandaloneClient<Channel>, manifests: &Manifests, uid: &str) {
    let Ok(list) = standalone.list_standalone(crisp_proto::crisp::v1::ListStandaloneRequest {}).await else {
        return;
    };
    let is_ours = list.into_inner().pods.iter().any(|pod| pod.uid == uid);
    let names =
        manifests.pods.iter().map(|document| format!("{}/{}", document.pod.namespace, document.pod.name));
    let request = TakeDownRequest { names: names.collect(), kill: true, at_rest_only: false };
    if is_ours && let Ok(events) = standalone.take_down(request).await {
        let mut events = events.into_inner();
        while let Ok(Some(_)) = events.message().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_cannot_start_has_dockers_codes() {
        let event = |text: &str, is_failure| StandaloneEvent {
            pod: "web".into(),
            text: text.into(),
            is_failure,
            ..StandaloneEvent::default()
        };
        let code = |text, is_failure, container: Option<&Container>| {
            failure(&event(text, is_failure), container).map(|(code, _)| code)
        };
        let there = Container::default();
        let missing = "web cannot be started: exec \"x\": executable file not found in $PATH (/bin)";
        assert_eq!(code(missing, false, Some(&there)), Some(127));
        assert_eq!(code("web cannot be started: mount /x: denied", false, None), Some(125));
        assert_eq!(code("there is a standalone pod called default/web already", true, None), Some(125));
        assert_eq!(code("has failed with code 3", true, Some(&there)), None);
        assert_eq!(code("is up", false, Some(&there)), None);
    }

    #[test]
    fn a_server_that_only_starts_containers_is_called_older() {
        let error = |start, status: Status| unknown(start, status).to_string();
        let old = error(Start::Later, Status::unimplemented("no such method"));
        assert!(old.contains("cannot create containers for a later start"), "{old}");
        assert!(error(Start::Now, Status::unimplemented("x")).contains("supervises no pods"));
        assert!(error(Start::Later, Status::invalid_argument("other")).contains("other"));
    }

    #[test]
    fn ports_of_an_image_are_found() {
        let info = |text: &str| exposed(&BTreeMap::from([("info".to_owned(), text.to_owned())]));
        assert_eq!(info(r#"{"imageSpec": {"config": {"ExposedPorts": {"80/tcp": {}}}}}"#), ["80/tcp"]);
        assert!(info("{}").is_empty() && info("x").is_empty() && exposed(&BTreeMap::new()).is_empty());
    }
}
