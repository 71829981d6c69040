//! `crisp attach`: the streams of a container's own process.

use std::process::ExitCode;
use std::time::Duration;

use crisp_proto::runtime::v1::AttachRequest;
use crisp_streaming::ProcessRequest;

use super::client::refused;
use super::detach_keys::Keys;
use super::names::Names;
use super::session::End;
use super::{Client, detach_keys, session, wait};

/// How often the exit of a container is looked up after its streams have ended, and the pause between two
/// tries.
const TRIES: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(100);

/// Show a running container's output from now on; with -i also send it input. Exits with its exit code
#[derive(Debug, clap::Args)]
pub struct Attach {
    /// Send standard input
    #[arg(long, short)]
    interactive: bool,
    /// Use a terminal, for a container that has one
    #[arg(long, short)]
    tty: bool,
    /// Keys that detach: single characters, DEL, or ctrl- and one of a-z @ [ \ ] ^ _, with commas between; '' for none
    #[arg(long, value_name = "KEYS", requires_all = ["tty", "interactive"], default_value = detach_keys::DEFAULT)]
    #[arg(value_parser = Keys::parse)]
    detach_keys: Keys,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
}

impl Attach {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let container_id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let (stdin, tty) = (self.interactive, self.tty);
        let streams = ProcessRequest { stdin, stdout: true, stderr: !tty, tty };
        let ProcessRequest { stdout, stderr, .. } = streams;
        let id = container_id.clone();
        let request = AttachRequest { container_id, stdin, tty, stdout, stderr };
        let url = client.runtime.attach(request).await.map_err(refused)?.into_inner().url;
        let endpoint = client.endpoint(&url).await?;
        let detach = self.detach_keys.finder().filter(|_| tty);
        match session::run(endpoint, streams, detach).await? {
            // The protocol knows no code of a process that was there before.
            End::Exited(0) => Ok(End::Exited(code(&mut client, &id).await).exit_code()),
            end => Ok(end.exit_code()),
        }
    }
}

/// The exit code of a container whose streams have ended. A container that still runs without them has none.
async fn code(client: &mut Client, id: &str) -> i32 {
    for _ in 0..TRIES {
        if let Ok(Some(code)) = wait::now(client, id).await {
            return code.unwrap_or(0);
        }
        tokio::time::sleep(BETWEEN).await;
    }
    0
}
