//! `crisp exec`: runs a command in a container and waits for its end.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use crisp_proto::runtime::v1::ExecRequest;
use crisp_streaming::ProcessRequest;

use super::client::refused;
use super::names::Names;
use super::{Client, session};

/// Run a command in a container and wait for its end
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// Send standard input to the command
    #[arg(long, short)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    tty: bool,
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
        let ProcessRequest { stdout, stderr, .. } = streams;
        let request = ExecRequest { container_id, cmd: self.command, stdin, tty, stdout, stderr };
        let url = client.runtime.exec(request).await.map_err(refused)?.into_inner().url;
        let endpoint = client.endpoint(&url).await?;
        let session = session::run(endpoint, streams, false);
        if self.timeout == 0 {
            return Ok(session.await?.exit_code());
        }
        let limit = Duration::from_secs(self.timeout.into());
        let end = tokio::time::timeout(limit, session).await;
        Ok(end
            .with_context(|| format!("the command did not end within {limit:?}: it is being ended"))??
            .exit_code())
    }
}
