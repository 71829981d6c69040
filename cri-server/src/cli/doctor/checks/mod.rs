//! The requirements of pods on a machine. Each check is independent; a check that fails says what to do.

mod cgroups;
mod clock;
mod folders;
mod kernel;
mod mirrors;
mod network;

use std::fmt;
use std::time::Duration;

use crisp_proto::runtime::v1::StatusRequest;
use serde_json::{Value, json};

use super::super::Client;
use super::super::client::refused;
use crate::config::Settings;

/// Time limit for all checks of one kind. A dead file system or network delays no other check.
const PATIENCE: Duration = Duration::from_secs(10);

/// One check and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    name: &'static str,
    pub outcome: Outcome,
    text: String,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// Pods run, but not all is as it should be.
    Warning,
    Failed,
}

impl Check {
    pub fn good(name: &'static str, text: String) -> Self {
        Self { name, outcome: Outcome::Good, text }
    }

    pub fn warning(name: &'static str, text: String) -> Self {
        Self { name, outcome: Outcome::Warning, text }
    }

    pub fn failed(name: &'static str, text: String) -> Self {
        Self { name, outcome: Outcome::Failed, text }
    }

    pub fn document(&self) -> Value {
        json!({ "name": self.name, "outcome": self.outcome.as_str(), "text": self.text })
    }
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {:<14} {}", self.outcome.as_str(), self.name, self.text)
    }
}

/// Checks that need no server.
pub async fn of_machine(settings: &Settings) -> Vec<Check> {
    let mut checks = within("kernel", settings, |_| kernel::checks()).await;
    checks.extend(within("cgroups", settings, cgroups::checks).await);
    checks.extend(within("disk", settings, folders::checks).await);
    checks.extend(within("clock", settings, clock::checks).await);
    checks.extend(within("CNI", settings, network::checks).await);
    checks.extend(mirrors::checks(settings).await);
    checks
}

async fn within(
    name: &'static str,
    settings: &Settings,
    checks: impl FnOnce(&Settings) -> Vec<Check> + Send + 'static,
) -> Vec<Check> {
    let settings = settings.clone();
    let work = tokio::task::spawn_blocking(move || checks(&settings));
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(checks)) => checks,
        Ok(Err(_)) => vec![Check::failed(name, "the check itself failed".to_owned())],
        Err(_) => vec![Check::failed(name, format!("no answer within {} s", PATIENCE.as_secs()))],
    }
}

/// The conditions that the server reports to kubelet too.
pub async fn of_server(client: &mut Client) -> Vec<Check> {
    let status = match client.runtime.status(StatusRequest { verbose: false }).await {
        Ok(status) => status.into_inner().status.unwrap_or_default(),
        Err(status) => return vec![Check::failed("server", format!("{:#}", refused(status)))],
    };
    let check = |condition: crisp_proto::runtime::v1::RuntimeCondition| {
        let name = if condition.r#type == "NetworkReady" { "network" } else { "server" };
        match condition.status {
            true => {
                Check::good(name, format!("{} {}", condition.r#type, condition.message).trim_end().to_owned())
            }
            false => Check::failed(name, format!("not {}: {}", condition.r#type, condition.message)),
        }
    };
    status.conditions.into_iter().map(check).collect()
}
