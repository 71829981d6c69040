//! `crisp pause` and `crisp unpause`: freeze and thaw the processes of containers.

use std::process::ExitCode;

use crisp_proto::crisp::v1::{PauseContainerRequest, UnpauseContainerRequest};
use tonic::Status;

use super::Client;
use super::client::refused;
use super::each::each;
use super::names::Names;
use super::targets::{all, running};

/// Pause all processes of containers, or of all containers of a pod
///
/// Stopping or killing a paused container resumes it, so that it can handle the signal. Commands cannot be
/// run in it.
#[derive(Debug, clap::Args)]
pub struct Pause {
    /// Containers or pods, as ids, beginnings of ids or names; pod/NAME is always a pod
    #[arg(required = true)]
    names: Vec<String>,
}

/// Resume the processes of paused containers
#[derive(Debug, clap::Args)]
pub struct Unpause {
    /// Containers or pods, as ids, beginnings of ids or names; pod/NAME is always a pod
    #[arg(required = true)]
    names: Vec<String>,
}

impl Pause {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        Ok(each(&self.names, async |name| {
            let ids = running(&known, name)?;
            all(&ids, async |id| {
                let request = PauseContainerRequest { container_id: id.to_owned() };
                wanted(ids.len(), "is paused", client.containers.pause(request).await)
            })
            .await
        })
        .await)
    }
}

impl Unpause {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        Ok(each(&self.names, async |name| {
            let ids = running(&known, name)?;
            all(&ids, async |id| {
                let request = UnpauseContainerRequest { container_id: id.to_owned() };
                wanted(ids.len(), "is not paused", client.containers.unpause(request).await)
            })
            .await
        })
        .await)
    }
}

/// For a pod with several containers, a container that is already in the wanted state is a success.
fn wanted<T>(count: usize, already: &str, reply: Result<T, Status>) -> anyhow::Result<()> {
    match reply {
        Err(status) if count > 1 && status.message().contains(already) => Ok(()),
        Err(status) => Err(refused(status)),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_pod_one_that_is_paused_already_is_as_good() {
        let paused =
            || Err::<(), _>(Status::failed_precondition("a container that is paused cannot be paused"));
        assert!(wanted(2, "is paused", paused()).is_ok());
        assert!(wanted(1, "is paused", paused()).is_err(), "one that is named is refused");
        assert!(wanted::<()>(2, "is paused", Err(Status::internal("no"))).is_err());
    }
}
