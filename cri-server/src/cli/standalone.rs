//! Containers of `crisp run -d IMAGE`, which the server supervises: it stops, starts and removes them.

use anyhow::{anyhow, bail};
use crisp_proto::crisp::v1::{
    ListStandaloneRequest, StandaloneEvent, StandalonePod, StartStandaloneRequest, StopStandaloneRequest,
};
use crisp_proto::runtime::v1::PodSandbox;
use tonic::{Code, Streaming};

use super::Client;
use super::client::refused;
use super::names::{Names, Target};
use crate::run::image::{OF_IMAGE, SOURCE};

/// The pod of a container of `crisp run -d IMAGE` by that name. None for every other container and pod, and for
/// those of a `crisp run` in the foreground.
///
/// # Errors
/// The server's error.
pub async fn by_name(
    client: &mut Client,
    known: &Names,
    name: &str,
) -> anyhow::Result<Option<StandalonePod>> {
    let pod = match known.either(name) {
        Ok(Target::Container(container)) => known.image_pod(container),
        Ok(Target::Pod(pod)) => Some(pod).filter(|pod| pod.annotations.contains_key(OF_IMAGE)),
        Err(error) if !is_unknown(&error) => return Ok(None),
        // A pod that waits for its next try has neither.
        Err(_) => return find(client, |pod| is_named(pod, name)).await,
    };
    match pod {
        Some(pod) => find(client, |of| is_same(of, pod)).await,
        None => Ok(None),
    }
}

/// Whether no container and no pod has the name.
pub fn is_unknown(error: &anyhow::Error) -> bool {
    error.to_string().starts_with("no container and no pod")
}

/// Whether it is of a `crisp run -d IMAGE` and has this name.
pub fn is_named(pod: &StandalonePod, name: &str) -> bool {
    pod.name == name && pod.source.starts_with(SOURCE)
}

/// Whether both are the same pod.
pub fn is_same(of: &StandalonePod, pod: &PodSandbox) -> bool {
    pod.metadata.as_ref().is_some_and(|metadata| metadata.uid == of.uid)
}

/// The supervised pod that is meant.
///
/// # Errors
/// The server's error.
pub async fn find(
    client: &mut Client,
    is_meant: impl Fn(&StandalonePod) -> bool,
) -> anyhow::Result<Option<StandalonePod>> {
    Ok(list(client).await?.into_iter().find(|pod| is_meant(pod)))
}

/// The supervised pods; none of another CRI server.
///
/// # Errors
/// The server's error.
pub async fn list(client: &mut Client) -> anyhow::Result<Vec<StandalonePod>> {
    match client.standalone.list_standalone(ListStandaloneRequest {}).await {
        Ok(all) => Ok(all.into_inner().pods),
        Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
        Err(status) => Err(refused(status)),
    }
}

/// Those of a `crisp run -d IMAGE` that were stopped, were only created or have ended.
///
/// # Errors
/// The server's error.
pub async fn resting(client: &mut Client) -> anyhow::Result<Vec<StandalonePod>> {
    let is_resting = |pod: &StandalonePod| {
        pod.source.starts_with(SOURCE) && ["Stopped", "Succeeded", "Failed"].contains(&pod.state.as_str())
    };
    Ok(list(client).await?.into_iter().filter(is_resting).collect())
}

/// Stops it; the server starts it no more. `timeout` is in seconds.
///
/// # Errors
/// The server's error.
pub async fn stop(client: &mut Client, pod: &StandalonePod, timeout: Option<u32>) -> anyhow::Result<()> {
    let request = StopStandaloneRequest { name: pod.uid.clone(), timeout };
    let mut events = client.standalone.stop(request).await.map_err(refused)?.into_inner();
    // The lines before the result are of the containers that are being stopped.
    while let Some(event) = events.message().await.map_err(refused)? {
        if event.is_failure {
            bail!("{}", event.text);
        }
    }
    Ok(())
}

/// Starts one that was stopped, was created or has ended.
///
/// # Errors
/// It cannot be started, and is not tried again.
pub async fn start(client: &mut Client, pod: &StandalonePod) -> anyhow::Result<()> {
    let request = StartStandaloneRequest { name: pod.uid.clone(), attach: false };
    let events = client.standalone.start(request).await.map_err(refused)?;
    started(client, pod, events.into_inner()).await
}

/// A container that was started. The server keeps it until this is dropped.
pub struct Attached {
    pub container_id: String,
    _events: Streaming<StandaloneEvent>,
}

/// Like [`start`]. Returns None for an older server, which does not keep a container that has ended.
///
/// # Errors
/// As of [`start`].
pub async fn start_attached(client: &mut Client, pod: &StandalonePod) -> anyhow::Result<Option<Attached>> {
    let request = StartStandaloneRequest { name: pod.uid.clone(), attach: true };
    let mut events = client.standalone.start(request).await.map_err(refused)?.into_inner();
    while let Some(event) = events.message().await.map_err(refused)? {
        if let Some(reason) = failure(&event) {
            drop(events);
            return Err(not_started(client, pod, reason).await);
        }
        if !event.container_id.is_empty() {
            return Ok(Some(Attached { container_id: event.container_id, _events: events }));
        }
    }
    Ok(None)
}

/// Stops and starts it.
///
/// # Errors
/// As of [`start`].
pub async fn restart(client: &mut Client, pod: &StandalonePod, timeout: Option<u32>) -> anyhow::Result<()> {
    let request = StopStandaloneRequest { name: pod.uid.clone(), timeout };
    let events = client.standalone.restart(request).await.map_err(refused)?;
    started(client, pod, events.into_inner()).await
}

async fn started(
    client: &mut Client,
    pod: &StandalonePod,
    events: Streaming<StandaloneEvent>,
) -> anyhow::Result<()> {
    match first_failure(events).await? {
        Some(reason) => Err(not_started(client, pod, reason).await),
        None => Ok(()),
    }
}

/// The error of a start. Its policy would try that again and again, which docker does not.
async fn not_started(client: &mut Client, pod: &StandalonePod, reason: String) -> anyhow::Error {
    if is_of_a_start(&reason)
        && let Err(error) = stop(client, pod, Some(0)).await
    {
        return anyhow!("{reason}; it is tried again, because it cannot be stopped: {error:#}");
    }
    anyhow!("{reason}")
}

async fn first_failure(mut events: Streaming<StandaloneEvent>) -> anyhow::Result<Option<String>> {
    while let Some(event) = events.message().await.map_err(refused)? {
        if let Some(reason) = failure(&event) {
            return Ok(Some(reason));
        }
    }
    Ok(None)
}

/// Whether it was started and could not. Otherwise it is as it was before the request.
fn is_of_a_start(reason: &str) -> bool {
    reason.contains(" cannot be started: ") || reason.starts_with("cannot be run, and is tried again: ")
}

/// The reason if the operation has failed. A container that has ended with an error did start.
fn failure(event: &StandaloneEvent) -> Option<String> {
    let text = &event.text;
    let is_failure = event.is_failure && !text.starts_with("has failed with code");
    (is_failure || text.contains(" cannot be started: ")).then(|| text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_has_ended_did_start() {
        let reason = |text: &str, is_failure| {
            failure(&StandaloneEvent { text: text.into(), is_failure, ..StandaloneEvent::default() })
        };
        assert_eq!(reason("has failed with code 3", true), None);
        assert_eq!(reason("is up", false), None);
        assert!(reason("web cannot be started: no such program", false).is_some());
        let tried_again = reason("cannot be run, and is tried again: no pod: busy", true).unwrap();
        assert!(is_of_a_start(&tried_again));
        let full = reason("status.json: No space left on device", true).unwrap();
        assert!(!is_of_a_start(&full), "a container that runs on is not stopped");
    }
}
