//! `crisp version`: the versions of this program and of the server.

use std::process::ExitCode;

use crisp_proto::runtime::v1::{VersionRequest, VersionResponse};
use serde_json::{Value, json};

use super::client::refused;
use super::listing::Format;
use super::template::Template;
use super::{Client, connect};
use crate::config::Settings;
use crate::print;

/// Show the versions of this program and of the server
///
/// Without a server, only the version of this program is shown and the exit code is 1.
#[derive(Debug, clap::Args)]
pub struct Version {
    /// A template, as '{{.Server.Version}}'
    #[arg(long, short, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Version {
    pub fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let server = connect(settings, request_version);
        let document = document(server.as_ref().ok());
        if let Some(format) = &self.format {
            print::line(Template::parse(format)?.render(&document)?)?;
        } else if !self.output.print(|| Ok(document.clone()))? {
            print::line(format_args!("Client:  crisp {}", env!("CARGO_PKG_VERSION")))?;
            if let Ok(server) = &server {
                print::line(format_args!("Server:  {} {}", server.runtime_name, server.runtime_version))?;
                print::line(format_args!("CRI:     {}", server.runtime_api_version))?;
            }
        }
        match server {
            Ok(_) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                print::warning(format_args!("crisp: {error:#}"));
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

async fn request_version(mut client: Client) -> anyhow::Result<VersionResponse> {
    let request = VersionRequest { version: "v1".to_owned() };
    Ok(client.runtime.version(request).await.map_err(refused)?.into_inner())
}

fn document(server: Option<&VersionResponse>) -> Value {
    let server = server.map(|server| {
        json!({
            "Name": server.runtime_name,
            "Version": server.runtime_version,
            "ApiVersion": server.runtime_api_version,
        })
    });
    json!({ "Client": { "Version": env!("CARGO_PKG_VERSION") }, "Server": server })
}
