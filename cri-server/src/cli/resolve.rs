//! `crisp resolve`: lists the endpoints for an image in the order of their use, without network traffic.

use std::io::Write as _;
use std::process::ExitCode;

use crisp_image_service::Reference;
use crisp_image_service::mirror::{Endpoint, EndpointOrigin, Mirrors, Resolution};
use serde_json::{Value, json};

use super::listing::Format;
use crate::config::{NetworkFlag, RawSettings, Settings};

/// Show the endpoints that a pull of an image would try, in order, and the reason
#[derive(Debug, clap::Args)]
pub struct Resolve {
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Image reference
    image: String,
    #[command(flatten)]
    pub settings: RawSettings,
    #[command(flatten)]
    pub network: NetworkFlag,
}

impl Resolve {
    pub fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let reference = Reference::parse(&self.image)?;
        let folder = settings.registry_config_dir.value.clone();
        let resolution = Mirrors::new(Some(folder)).resolve(&reference)?;
        if !self.output.print(|| Ok(document(&reference, &resolution)))? {
            print_text(&reference, &resolution, settings)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn document(reference: &Reference, resolution: &Resolution) -> Value {
    json!({
        "image": reference.to_string(),
        "registry": resolution.registry,
        "folder": resolution.folder,
        "endpoints": resolution.endpoints.iter().map(|e| json!({
            "url": e.url().to_string(),
            "why": why(&e.why),
            "pull": e.pull,
            "resolve": e.resolve,
        })).collect::<Vec<_>>(),
    })
}

fn print_text(reference: &Reference, resolution: &Resolution, settings: &Settings) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "image     {reference}")?;
    writeln!(out, "registry  {}", resolution.registry)?;
    match &resolution.folder {
        Some(folder) => writeln!(out, "decided by {}", folder.display())?,
        None => writeln!(
            out,
            "no folder for it in {} ({})",
            settings.registry_config_dir.value.display(),
            settings.registry_config_dir.source
        )?,
    }
    for (number, endpoint) in resolution.endpoints.iter().enumerate() {
        writeln!(out, "{}. {}{}\n   {}", number + 1, endpoint.url(), can(endpoint), why(&endpoint.why))?;
    }
    Ok(())
}

/// Capabilities that an endpoint lacks, if that is unusual.
fn can(endpoint: &Endpoint) -> &'static str {
    match (endpoint.resolve, endpoint.pull) {
        (true, true) => "",
        (true, false) => " (only to resolve tags)",
        (false, true) => " (only for content by digest, not to resolve tags)",
        (false, false) => " (never used: it has neither the capability pull nor resolve)",
    }
}

fn why(why: &EndpointOrigin) -> String {
    match why {
        EndpointOrigin::Mirror(path) => format!("mirror in {}", path.display()),
        EndpointOrigin::Server(path) => format!("server in {}", path.display()),
        EndpointOrigin::Registry => "the registry itself".to_owned(),
    }
}
