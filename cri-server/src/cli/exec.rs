//! `crisp exec`: a command in a container, to its end.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::ExecSyncRequest;

use super::Client;
use super::client::refused;
use super::names::Names;

/// Run a command in a container and wait for its end
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// Not supported yet
    #[arg(long, short)]
    interactive: bool,
    /// Not supported yet
    #[arg(long, short)]
    tty: bool,
    /// Kill the command after this many seconds
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
        if self.interactive || self.tty {
            bail!(
                "exec with standard input or a terminal (-i, -t) is not supported by crisp yet: leave them \
                 out to run a command to its end; `crictl exec -it` works as soon as the server answers Exec"
            );
        }
        let container_id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let request = ExecSyncRequest { container_id, cmd: self.command, timeout: self.timeout.into() };
        let reply = client.runtime.exec_sync(request).await.map_err(refused)?.into_inner();
        std::io::stdout().write_all(&reply.stdout)?;
        std::io::stderr().write_all(&reply.stderr)?;
        // An exit code fits into a byte.
        Ok(ExitCode::from(u8::try_from(reply.exit_code).unwrap_or(255)))
    }
}
