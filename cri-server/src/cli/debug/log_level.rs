//! `crisp debug log-level`: shows or sets the level of a running server's log.

use std::process::ExitCode;

use crisp_proto::crisp::v1::SetLevelRequest;

use crate::cli::Client;
use crate::config::Settings;
use crate::print;
use crate::rpc_error::refused;

/// Show or set the level of a running server's log
///
/// It is in force until the server ends, or until SIGHUP sets the configured level.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp debug log-level
  crisp debug log-level debug
  crisp debug log-level info,crisp_sandbox=trace")]
pub struct LogLevelCommand {
    /// error, warn, info, debug or trace; also per crate, as in \"info,crisp_sandbox=debug\"
    level: Option<String>,
}

impl LogLevelCommand {
    pub async fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let mut client = Client::connect(&settings.listen.value).await?;
        let request = SetLevelRequest { level: self.level.unwrap_or_default() };
        let reply = client.log.set_level(request).await.map_err(refused)?.into_inner();
        print::line(reply.level)?;
        Ok(ExitCode::SUCCESS)
    }
}
