//! `crisp exec`: a command in a container, to its end.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::{ExecRequest, ExecSyncRequest};
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
    /// Kill the command after this many seconds; not with -i or -t
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u32,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
    /// Program and its arguments; options after its name are the program's own
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

impl Exec {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let container_id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        if self.interactive || self.tty {
            return self.stream(client, container_id).await;
        }
        let request = ExecSyncRequest { container_id, cmd: self.command, timeout: self.timeout.into() };
        let reply = client.runtime.exec_sync(request).await.map_err(refused)?.into_inner();
        std::io::stdout().write_all(&reply.stdout)?;
        std::io::stderr().write_all(&reply.stderr)?;
        // An exit code fits into a byte.
        Ok(ExitCode::from(u8::try_from(reply.exit_code).unwrap_or(255)))
    }

    async fn stream(self, mut client: Client, container_id: String) -> anyhow::Result<ExitCode> {
        if self.timeout != 0 {
            bail!("--timeout has no effect on a command with input or a terminal: leave it out");
        }
        let (stdin, tty) = (self.interactive, self.tty);
        let streams = ProcessRequest { stdin, stdout: true, stderr: !tty, tty };
        let ProcessRequest { stdout, stderr, .. } = streams;
        let request = ExecRequest { container_id, cmd: self.command, stdin, tty, stdout, stderr };
        let url = client.runtime.exec(request).await.map_err(refused)?.into_inner().url;
        let endpoint = client.endpoint(&url).await?;
        Ok(session::run(endpoint, streams, false).await?.exit_code())
    }
}
