//! `crisp attach`: the streams of a container's own process.

use std::process::ExitCode;

use crisp_proto::runtime::v1::AttachRequest;
use crisp_streaming::ProcessRequest;

use super::client::refused;
use super::names::Names;
use super::{Client, session};

/// Show a running container's output from now on; with -i also send it input
#[derive(Debug, clap::Args)]
pub struct Attach {
    /// Send standard input
    #[arg(long, short)]
    interactive: bool,
    /// Use a terminal, for a container that has one; ctrl-p ctrl-q detaches
    #[arg(long, short)]
    tty: bool,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
}

impl Attach {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let container_id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let (stdin, tty) = (self.interactive, self.tty);
        let streams = ProcessRequest { stdin, stdout: true, stderr: !tty, tty };
        let ProcessRequest { stdout, stderr, .. } = streams;
        let request = AttachRequest { container_id, stdin, tty, stdout, stderr };
        let url = client.runtime.attach(request).await.map_err(refused)?.into_inner().url;
        let endpoint = client.endpoint(&url).await?;
        Ok(session::run(endpoint, streams, tty).await?.exit_code())
    }
}
