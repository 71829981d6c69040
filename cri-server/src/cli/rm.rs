//! `crisp rm`: removes containers or whole pods.

use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::crisp::v1::{StandalonePod, TakeDownRequest};
use crisp_proto::runtime::v1::{
    ContainerState, PodSandbox, PodSandboxState, RemoveContainerRequest, RemovePodSandboxRequest,
    StopPodSandboxRequest,
};

use tonic::Code;

use super::Client;
use super::client::refused;
use super::each::each;
use super::names::{Names, Target};
use super::standalone::{find, is_named, is_same, is_unknown};
use crate::run::image::OF_IMAGE;

/// Remove containers or pods
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Also remove running ones: they are killed first
    #[arg(long, short)]
    force: bool,
    /// Accepted for docker's users: volumes that the image declares are always removed with their container
    #[arg(long, short)]
    volumes: bool,
    /// Containers or pods, as ids, beginnings of ids or names; pod/NAME is always a pod
    #[arg(required = true)]
    names: Vec<String>,
}

impl Rm {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        Ok(each(&self.names, async |name| self.remove(&mut client, &known, name).await).await)
    }

    async fn remove(&self, client: &mut Client, known: &Names, name: &str) -> anyhow::Result<()> {
        let target = match known.either(name) {
            // A pod that waits for its next try has neither.
            Err(error) => {
                if is_unknown(&error) && take_down(client, |pod| is_named(pod, name), self.force).await? {
                    return Ok(());
                }
                return Err(error);
            }
            Ok(target) => target,
        };
        match target {
            Target::Container(c) => {
                if !self.force && c.state() == ContainerState::ContainerRunning {
                    bail!("it is running: stop it first, or use -f");
                }
                match known.image_pod(c) {
                    Some(pod) if take_down(client, |of| is_same(of, pod), self.force).await? => {}
                    Some(pod) => remove_pod(client, pod).await?,
                    None => {
                        let request = RemoveContainerRequest { container_id: c.id.clone() };
                        client.runtime.remove_container(request).await.map_err(refused)?;
                    }
                }
            }
            Target::Pod(pod) => {
                if !self.force && pod.state() == PodSandboxState::SandboxReady {
                    bail!("the pod is ready: stop it first, or use -f");
                }
                let is_of_image = pod.annotations.contains_key(OF_IMAGE);
                if !(is_of_image && take_down(client, |of| is_same(of, pod), self.force).await?) {
                    remove_pod(client, pod).await?;
                }
            }
        }
        Ok(())
    }
}

async fn remove_pod(client: &mut Client, pod: &PodSandbox) -> anyhow::Result<()> {
    let stop = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    client.runtime.stop_pod_sandbox(stop).await.map_err(refused)?;
    let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    client.runtime.remove_pod_sandbox(request).await.map_err(refused)?;
    Ok(())
}

/// Ends the supervision of a pod and removes it. Returns false when the server supervises no such pod.
///
/// # Errors
/// The server's error.
pub async fn take_down(
    client: &mut Client,
    is_meant: impl Fn(&StandalonePod) -> bool,
    kill: bool,
) -> anyhow::Result<bool> {
    let Some(pod) = find(client, is_meant).await? else { return Ok(false) };
    let names = vec![format!("{}/{}", pod.namespace, pod.name)];
    request(client, TakeDownRequest { names, kill, at_rest_only: false }).await
}

/// Removes a pod by its uid. Returns false when it runs, or the server supervises no such pod.
///
/// # Errors
/// The server's error.
pub async fn take_down_at_rest(client: &mut Client, uid: &str) -> anyhow::Result<bool> {
    request(client, TakeDownRequest { names: vec![uid.to_owned()], kill: false, at_rest_only: true }).await
}

/// Returns false for a pod that is not there, or that the server keeps.
async fn request(client: &mut Client, request: TakeDownRequest) -> anyhow::Result<bool> {
    match client.standalone.take_down(request).await {
        Ok(events) => {
            let mut events = events.into_inner();
            while let Some(event) = events.message().await.map_err(refused)? {
                match event.text {
                    text if event.is_failure && is_no_removal(&text) => return Ok(false),
                    text if event.is_failure => bail!(text),
                    _ => {}
                }
            }
            Ok(true)
        }
        Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(false),
        Err(status) => Err(refused(status)),
    }
}

fn is_no_removal(text: &str) -> bool {
    text.contains("no standalone pod") || text == "is not stopped, and is kept"
}
