//! Whether the mirrors of hosts.toml files can be reached.

use std::path::Path;
use std::time::Duration;

use crisp_image_service::Reference;
use crisp_image_service::mirror::{Endpoint, Mirrors};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Check;
use crate::config::Settings;

/// Time limit for a connection.
const PATIENCE: Duration = Duration::from_secs(3);
/// The folder for registries without a folder of their own.
const OTHERS: &str = "_default";
/// An example of such a registry.
const ANY_OTHER: &str = "another-registry.invalid";

pub async fn checks(settings: &Settings) -> Vec<Check> {
    let folder = settings.registry_config_dir.value.clone();
    let registries = registries(&folder);
    if registries.is_empty() {
        return vec![Check::good("mirrors", format!("none in {}", folder.display()))];
    }
    let mut tasks = JoinSet::new();
    for registry in registries {
        let mirrors = Mirrors::new(Some(folder.clone()));
        tasks.spawn(async move { of_registry(&mirrors, &registry).await });
    }
    tasks.join_all().await
}

/// The registries that have a folder. `host_5000_` is `host:5000`.
fn registries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| registry_of(&name))
        .collect();
    names.sort();
    names
}

fn registry_of(folder: &str) -> String {
    match folder.strip_suffix('_').and_then(|name| name.rsplit_once('_')) {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => format!("{host}:{port}"),
        _ if folder == OTHERS => ANY_OTHER.to_owned(),
        _ => folder.to_owned(),
    }
}

async fn of_registry(mirrors: &Mirrors, registry: &str) -> Check {
    let resolved = Reference::parse(&format!("{registry}/any/image")).map_err(|error| error.to_string());
    let resolved = resolved.and_then(|image| mirrors.resolve(&image).map_err(|error| error.to_string()));
    let endpoints = match resolved {
        Ok(resolution) => resolution.endpoints,
        Err(error) => return Check::failed("mirrors", format!("{registry}: {error}")),
    };
    let endpoints: Vec<Endpoint> =
        endpoints.into_iter().filter(|endpoint| endpoint.url().host() != ANY_OTHER).collect();
    let (mut reached, mut failures) = (0, Vec::new());
    for endpoint in &endpoints {
        match reach(endpoint).await {
            Ok(()) => reached += 1,
            Err(error) => failures.push(format!("{} ({error})", endpoint.url().origin())),
        }
    }
    let name = if registry == ANY_OTHER { "other registries" } else { registry };
    let text = format!("{name}: {reached} of {} endpoints reached", endpoints.len());
    match (failures.is_empty(), reached) {
        (true, _) => Check::good("mirrors", text),
        (false, 0) => Check::failed("mirrors", format!("{text}: {}", failures.join(", "))),
        (false, _) => Check::warning("mirrors", format!("{text}, not {}", failures.join(", "))),
    }
}

/// Checks only that something listens: it requests no image and sends no login.
async fn reach(endpoint: &Endpoint) -> Result<(), String> {
    let url = endpoint.url();
    let port = url.authority()[url.host().len()..].strip_prefix(':').and_then(|port| port.parse().ok());
    let port = port.unwrap_or(if url.is_https() { 443_u16 } else { 80 });
    let host = url.host().trim_start_matches('[').trim_end_matches(']');
    match tokio::time::timeout(PATIENCE, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_registries() {
        for (folder, registry) in [
            ("docker.io", "docker.io"),
            ("host_5000_", "host:5000"),
            ("my_host", "my_host"),
            ("_default", ANY_OTHER),
        ] {
            assert_eq!(registry_of(folder), registry);
        }
    }
}
