//! `crisp exec`: runs a command in a container and waits for its end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use crisp_proto::crisp::v1::ExecContainerRequest;
use crisp_proto::runtime::v1::ExecRequest;
use crisp_streaming::ProcessRequest;

use super::client::refused;
use super::names::Names;
use super::{Client, session};
use crate::run::image::variables::variables;

/// Run a command in a container and wait for its end
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// Send standard input to the command
    #[arg(long, short)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    tty: bool,
    /// A variable: NAME=VALUE, or NAME to pass on crisp's own value
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A file of variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// USER[:GROUP], by name or number, as in the container's files [default: the container's]
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Working directory [default: the container's]
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,
    /// End the command after this many seconds: with SIGHUP, then with SIGKILL if it still runs
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u32,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
    /// Program and its arguments; options after the program's name belong to the program
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

impl Exec {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let container_id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let (stdin, tty) = (self.interactive, self.tty);
        let streams = ProcessRequest { stdin, stdout: true, stderr: !tty, tty };
        let timeout = self.timeout;
        let url = self.request(&mut client, container_id, streams).await?;
        let endpoint = client.endpoint(&url).await?;
        let session = session::run(endpoint, streams, None);
        if timeout == 0 {
            return Ok(session.await?.exit_code());
        }
        let limit = Duration::from_secs(timeout.into());
        let end = tokio::time::timeout(limit, session).await;
        Ok(end
            .with_context(|| format!("the command did not end within {limit:?}: it is being ended"))??
            .exit_code())
    }

    /// Returns the URL of the session. Without settings of its own, the command is a request of the CRI.
    async fn request(
        self,
        client: &mut Client,
        container_id: String,
        streams: ProcessRequest,
    ) -> anyhow::Result<String> {
        let environment = variables(&self.env_file, &self.env, |name| std::env::var(name).ok())?;
        let ProcessRequest { stdin, stdout, stderr, tty } = streams;
        if environment.is_empty() && self.user.is_none() && self.workdir.is_none() {
            let request = ExecRequest { container_id, cmd: self.command, stdin, tty, stdout, stderr };
            return Ok(client.runtime.exec(request).await.map_err(refused)?.into_inner().url);
        }
        let request = ExecContainerRequest {
            container_id,
            command: self.command,
            stdin,
            stdout,
            stderr,
            tty,
            environment: environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            user: self.user.unwrap_or_default(),
            working_dir: self.workdir.unwrap_or_default(),
        };
        Ok(client.containers.exec(request).await.map_err(refused)?.into_inner().url)
    }
}
