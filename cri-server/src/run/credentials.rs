//! `imagePullSecrets`: credentials for registries, in the form of docker's configuration.

use std::collections::BTreeMap;

use anyhow::Context as _;
use crisp_image_service::{Auth, Reference};
use serde::Deserialize;

use super::manifest::{Objects, Pod};
use super::report::Report;
use crate::cli::credentials::Logins;
use crate::cli::pull;

/// The key of a Secret of the type `kubernetes.io/dockerconfigjson`.
const KEY: &str = ".dockerconfigjson";

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The credentials of the pod for an image: those with the longest matching name. As with kubelet, a missing
/// Secret is reported and skipped: the image may need none.
///
/// # Errors
/// A Secret has no docker configuration.
pub fn find(pod: &Pod, objects: &Objects, report: &Report, image: &str) -> anyhow::Result<Option<Auth>> {
    let mut best: Option<(usize, Auth)> = None;
    for (index, name) in pod.image_pull_secrets.iter().enumerate() {
        let at = || format!("spec.imagePullSecrets[{index}]: Secret {name:?}");
        let Some(data) = objects.data(&pod.namespace, name, true) else {
            report.emit(format_args!("{} is not in the manifests", at()));
            continue;
        };
        let text = data.get(KEY).with_context(|| format!("{} has no key {KEY}", at()))?;
        // The parser's error would contain a part of the text.
        let config: DockerConfig = serde_json::from_slice(text)
            .ok()
            .with_context(|| format!("{}: {KEY} is no docker configuration", at()))?;
        // For an invalid image name the pull reports the error.
        let Ok(reference) = Reference::parse(image) else { continue };
        for (server, login) in config.auths {
            let length = fits(&server, reference.registry(), reference.repository());
            if length.is_some_and(|length| best.as_ref().is_none_or(|(other, _)| length > *other)) {
                best = length.map(|length| (length, auth(login)));
            }
        }
    }
    Ok(best.map(|(_, auth)| auth))
}

/// The credentials of this program's user for an image: the stored login, or, only for the image that the
/// command line names, those of the environment. Login files that cannot be read do not prevent the pull of a
/// public image.
pub async fn of_user(image: &str, is_named: bool, report: &Report) -> Option<Auth> {
    let own = if is_named { pull::credentials_of_environment() } else { Ok(None) };
    let found = match (own, Logins::of_user()) {
        (Err(error), _) => Err(error),
        (Ok(Some(own)), _) => Ok(Some(own)),
        (Ok(None), Ok(logins)) => logins.find(image).await,
        (Ok(None), Err(_)) => Ok(None),
    };
    let found = found.unwrap_or_else(|error| {
        report.emit(format_args!("{image}: no login is used: {error:#}"));
        None
    })?;
    Some(Auth {
        username: found.username,
        password: found.password.into(),
        auth: found.auth.into(),
        identity_token: found.identity_token.into(),
        registry_token: found.registry_token.into(),
        server_address: found.server_address,
    })
}

/// The length of the matching part of the name, if the login is for this registry.
fn fits(server: &str, registry: &str, repository: &str) -> Option<usize> {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let server = server.strip_suffix("/v1").or(server.strip_suffix("/v2")).unwrap_or(server);
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let is_hub = |host: &str| ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&host);
    let same_host = is_same_host(host, registry) || (is_hub(host) && is_hub(registry));
    let inside = path.is_empty()
        || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (same_host && inside).then_some(server.len())
}

/// Whether a host is that of the pattern. As with kubelet, `*` and `?` stand for a part of one label of the name.
fn is_same_host(pattern: &str, host: &str) -> bool {
    let port_of = |host: &str| host.rsplit_once(':').map(|(_, port)| port.to_owned());
    let labels = |host: &str| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name.split('.').map(str::to_owned).collect::<Vec<_>>()
    };
    let (patterns, parts) = (labels(pattern), labels(host));
    port_of(pattern) == port_of(host)
        && patterns.len() == parts.len()
        && patterns.iter().zip(&parts).all(|(pattern, part)| fits_label(pattern.as_bytes(), part.as_bytes()))
}

fn fits_label(pattern: &[u8], text: &[u8]) -> bool {
    // Where the last star is, and where the text that it stands for ends.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, end)) = star else { return false };
                star = Some((at, end + 1));
                (p, t) = (at + 1, end + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

fn auth(login: Login) -> Auth {
    Auth {
        username: login.username,
        password: login.password.into(),
        auth: login.auth.into(),
        identity_token: login.identitytoken.into(),
        registry_token: login.registrytoken.into(),
        server_address: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::parse;
    use super::*;

    #[test]
    fn a_star_stands_for_a_part_of_one_label() {
        let fits = |pattern: &str, host: &str| fits(pattern, host, "app").is_some();
        for (pattern, host) in [
            ("*.azurecr.io", "a.azurecr.io"),
            ("https://*.dkr.ecr.*.amazonaws.com/v2/", "12.dkr.ecr.eu-1.amazonaws.com"),
            ("r*-?.example:5000/app", "reg-1.example:5000"),
            ("*a*b*.io", "xaxbxab.io"),
        ] {
            assert!(fits(pattern, host), "{pattern} {host}");
        }
        for (pattern, host) in [
            ("*.azurecr.io", "a.b.azurecr.io"),
            ("*.azurecr.io", "azurecr.io"),
            ("*.azurecr.io", "a.azurecr.io:5000"),
            ("r?.example", "r.example"),
            ("*", "r.example"),
            ("*.azurecr.io/other", "a.azurecr.io"),
            ("*ab.io", "aba.io"),
        ] {
            assert!(!fits(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn credentials_are_those_of_the_longest_name_that_fits() {
        let config = r#"{"auths": {"r.example:5000": {"username": "all"}, "https://r.example:5000/team": {"username": "team"}, "https://index.docker.io/v1/": {"username": "hub"}}}"#;
        let text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{.dockerconfigjson: '{config}'}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{imagePullSecrets: [{{name: s}}], containers: [{{name: a, image: b}}]}}\n"
        );
        // A missing Secret is skipped.
        let text = text.replace("[{name: s}]", "[{name: missing}, {name: s}]");
        let manifests = parse("p", &text).unwrap();
        let user = |image: &str| {
            let report = Report::Screen(String::new());
            let auth = find(&manifests.pods[0].pod, &manifests.objects, &report, image).unwrap();
            auth.map(|auth| auth.username)
        };
        assert_eq!(user("r.example:5000/team/a:1").as_deref(), Some("team"));
        assert_eq!(user("r.example:5000/teams/a").as_deref(), Some("all"));
        assert_eq!(user("busybox").as_deref(), Some("hub"));
        assert_eq!(user("other.example/a"), None);
    }
}
