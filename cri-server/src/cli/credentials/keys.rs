//! The names under which a login for a registry may be kept.

/// The key of docker.io in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The key under which a login for a registry is written.
pub fn key(registry: &str) -> String {
    if registry == "docker.io" { DOCKER_HUB.to_owned() } else { registry.to_owned() }
}

/// The keys that may have a login for the repository, the most exact first.
pub fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    while !path.is_empty() {
        keys.push(format!("{registry}/{path}"));
        path = path.rsplit_once('/').map_or("", |(above, _)| above);
    }
    let hosts: &[&str] = if registry == "docker.io" {
        &["docker.io", "index.docker.io", "registry-1.docker.io"]
    } else {
        &[registry]
    };
    for host in hosts {
        for form in [format!("https://{host}/v1/"), format!("https://{host}"), format!("http://{host}")] {
            keys.push(form);
        }
        keys.extend([format!("https://{host}/"), format!("https://{host}/v2/"), (*host).to_owned()]);
    }
    keys
}

/// Whether helpers know this form of key; they do not know paths of repositories.
pub fn is_server(key: &str) -> bool {
    key.starts_with("https://") || !key.contains('/')
}
