//! `crisp kill`: a signal for the first processes of containers.

use std::process::ExitCode;
use std::time::Duration;

use crisp_proto::crisp::v1::KillContainerRequest;

use super::client::refused;
use super::each::each;
use super::names::Names;
use super::targets::{all, running};
use super::{Client, wait};

/// Time limit for a killed container to end.
const END: Duration = Duration::from_secs(10);

/// Send a signal to the first process of containers, or of all containers of a pod
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp kill web               # SIGKILL
  crisp kill -s HUP web        # names with and without SIG, numbers, RTMIN+3")]
pub struct Kill {
    /// Signal, by name or number
    #[arg(long, short, default_value = "KILL")]
    signal: String,
    /// Containers or pods, as ids, beginnings of ids or names; pod/NAME is always a pod
    #[arg(required = true)]
    names: Vec<String>,
}

impl Kill {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        Ok(each(&self.names, async |name| {
            let ids = running(&known, name)?;
            all(&ids, async |id| self.kill(&mut client, id).await).await
        })
        .await)
    }

    async fn kill(&self, client: &mut Client, id: &str) -> anyhow::Result<()> {
        let request = KillContainerRequest { container_id: id.to_owned(), signal: self.signal.clone() };
        client.containers.kill(request).await.map_err(refused)?;
        if is_kill(&self.signal) {
            // So that the next command finds it ended. A container that cannot end is not waited for without
            // limit.
            let _ = tokio::time::timeout(END, wait::exit_code(client, id)).await;
        }
        Ok(())
    }
}

/// Whether the signal is SIGKILL, which no process survives.
fn is_kill(signal: &str) -> bool {
    let upper = signal.to_ascii_uppercase();
    ["KILL", "9"].contains(&upper.strip_prefix("SIG").unwrap_or(&upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kill_has_three_names() {
        assert!(["KILL", "sigkill", "9"].into_iter().all(is_kill));
        assert!(!["TERM", "19", "SIGKILLED", ""].into_iter().any(is_kill));
    }
}
