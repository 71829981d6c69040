//! `crisp pull`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use crisp_image_service::pull::LayerState;
use crisp_proto::crisp::v1::{
    CancelPullRequest, LayerProgress, LayerState as WireState, PullReply, PullRequest,
};
use crisp_proto::runtime::v1::{AuthConfig, ImageSpec, PullImageRequest};
use tonic::{Code, Streaming};

use super::Client;
use super::client::refused;
use super::credentials::Logins;
use crate::print;
use crate::progress::{Bars, LayerView, View};

/// Pull images from their registries
///
/// Without --creds and CRISP_CREDS, logins of `crisp login`, docker and podman are used.
#[derive(clap::Args)]
pub struct Pull {
    /// Credentials as USER:PASSWORD; the environment variable CRISP_CREDS keeps them out of the process list
    #[arg(long, value_name = "USER:PASSWORD")]
    creds: Option<String>,
    /// Print only the ids
    #[arg(long, short)]
    quiet: bool,
    /// Cancel running pulls of these images instead of pulling
    #[arg(long, conflicts_with = "creds")]
    cancel: bool,
    /// Images, by tag or digest
    #[arg(required = true)]
    images: Vec<String>,
}

/// Not derived: the credentials must not be printed.
impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull").field("images", &self.images).finish_non_exhaustive()
    }
}

impl Pull {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        if self.cancel {
            return self.stop_pulls(&mut client).await;
        }
        let auth = match &self.creds {
            Some(creds) => Some(credentials(creds)?),
            None => credentials_of_environment()?,
        };
        let logins = Logins::of_user();
        let mut bars = (!self.quiet).then(Bars::new);
        let mut code = ExitCode::SUCCESS;
        for image in &self.images {
            let started = Instant::now();
            let auth = match (&auth, &logins) {
                (None, Ok(logins)) => login(logins, image).await,
                (auth, _) => auth.clone(),
            };
            match pull(&mut client, image, auth, bars.as_mut()).await {
                Ok(id) if self.quiet => print::best_effort(format_args!("{id}")),
                Ok(id) => print::best_effort(format_args!(
                    "{image}: {id} in {:.1}s",
                    started.elapsed().as_secs_f64()
                )),
                Err(error) => {
                    print::warning(format_args!("crisp: {error:#}"));
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }

    async fn stop_pulls(&self, client: &mut Client) -> anyhow::Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        for image in &self.images {
            let request = CancelPullRequest { image: image.clone() };
            let reply = client.pulls.cancel_pull(request).await.map_err(refused)?.into_inner();
            if reply.cancelled == 0 {
                print::warning(format_args!("crisp: {image}: no pull of it is under way"));
                code = ExitCode::FAILURE;
            } else if !self.quiet {
                print::best_effort(format_args!("{image}: cancelled"));
            }
        }
        Ok(code)
    }
}

/// Pulls with the credentials of the environment, else with the stored login for the image.
pub async fn with_login(client: &mut Client, image: &str, bars: Option<&mut Bars>) -> anyhow::Result<String> {
    let auth = match (credentials_of_environment()?, Logins::of_user()) {
        (None, Ok(logins)) => login(&logins, image).await,
        (auth, _) => auth,
    };
    pull(client, image, auth, bars).await
}

/// The stored login for an image. Login files that cannot be read do not prevent the pull of a public image.
async fn login(logins: &Logins, image: &str) -> Option<AuthConfig> {
    logins.find(image).await.unwrap_or_else(|error| {
        print::warning(format_args!("crisp: {image}: no login is used: {error:#}"));
        None
    })
}

/// Credentials of the environment, which keeps them out of the process list.
pub fn credentials_of_environment() -> anyhow::Result<Option<AuthConfig>> {
    std::env::var("CRISP_CREDS").ok().as_deref().map(credentials).transpose()
}

/// Pulls with progress. Other CRI servers do not report progress: they get a plain PullImage.
pub(super) async fn pull(
    client: &mut Client,
    image: &str,
    auth: Option<AuthConfig>,
    bars: Option<&mut Bars>,
) -> anyhow::Result<String> {
    let request = PullRequest { image: image.to_owned(), auth: auth.clone() };
    match client.pulls.pull(request).await {
        Ok(replies) => follow(replies.into_inner(), image, bars).await,
        Err(status) if status.code() == Code::Unimplemented => pull_in_silence(client, image, auth).await,
        Err(status) => Err(refused(status)),
    }
}

async fn follow(
    mut replies: Streaming<PullReply>,
    image: &str,
    mut bars: Option<&mut Bars>,
) -> anyhow::Result<String> {
    let result = loop {
        match replies.message().await {
            Ok(Some(reply)) if reply.image_ref.is_empty() => {
                if let Some(bars) = &mut bars {
                    bars.update(view(image, &reply));
                }
            }
            Ok(Some(reply)) => break Ok(reply.image_ref),
            Ok(None) => break Err(anyhow::anyhow!("{image}: the server ended the pull without a result")),
            Err(status) => break Err(refused(status)),
        }
    };
    if let Some(bars) = bars {
        bars.clear(image);
    }
    result
}

async fn pull_in_silence(
    client: &mut Client,
    image: &str,
    auth: Option<AuthConfig>,
) -> anyhow::Result<String> {
    let request = PullImageRequest {
        image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
        auth,
        sandbox_config: None,
    };
    Ok(client.images.pull_image(request).await.map_err(refused)?.into_inner().image_ref)
}

fn view(image: &str, reply: &PullReply) -> View {
    let layer = |layer: &LayerProgress| LayerView {
        digest: layer.digest.clone(),
        total: layer.total,
        received: layer.received,
        state: match layer.state() {
            WireState::LayerWaiting => LayerState::Waiting,
            WireState::LayerReceiving => LayerState::Receiving,
            WireState::LayerUnpacking => LayerState::Unpacking,
            WireState::LayerDone => LayerState::Done,
            WireState::LayerPresent => LayerState::Present,
        },
    };
    View {
        image: image.to_owned(),
        stage: reply.stage.clone(),
        layers: reply.layers.iter().map(layer).collect(),
    }
}

fn credentials(text: &str) -> anyhow::Result<AuthConfig> {
    let (username, password) = text.split_once(':').context("--creds: expected USER:PASSWORD")?;
    if username.is_empty() {
        bail!("--creds: expected USER:PASSWORD");
    }
    Ok(AuthConfig { username: username.to_owned(), password: password.to_owned(), ..AuthConfig::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_have_colons_and_is_not_printed() {
        let auth = credentials("ann:a:b").unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("ann", "a:b"));
        assert!(credentials("ann").is_err() && credentials(":b").is_err());
        let pull =
            Pull { creds: Some("ann:hunter2".into()), quiet: false, cancel: false, images: vec!["a".into()] };
        assert!(!format!("{pull:?}").contains("hunter2"));
    }
}
