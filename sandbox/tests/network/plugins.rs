//! Networks of plugins that are scripts, for tests of CNI.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crisp_sandbox::network::{NetworkConfig, Networks};
use tempfile::TempDir;

use crate::support::config;

pub fn write_config(dir: &Path, name: &str, text: &str) {
    fs::create_dir_all(dir.join("net.d")).unwrap();
    fs::write(dir.join("net.d").join(name), text).unwrap();
}

/// A plugin that notes each call with its input, and then does what `body` says.
pub fn plugin(dir: &Path, name: &str, body: &str) {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let calls = dir.join("calls");
    let script = format!(
        "#!/bin/sh\ninput=$(cat)\necho \"$CNI_COMMAND {name} ns=$CNI_NETNS $CNI_IFNAME $CNI_ARGS $input\" >>{}\n{body}\n",
        calls.display()
    );
    fs::write(bin.join(name), script).unwrap();
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

pub const RESULT: &str = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.7/24"}]}'"#;

/// The verbs and plugins called so far, in order.
pub fn calls(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("calls")).unwrap_or_default();
    // The versions are asked for in the background.
    let lines = text.lines().filter(|line| !line.starts_with("VERSION"));
    lines.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

pub fn scripted(dir: &Path) -> NetworkConfig {
    NetworkConfig { cni_bin_dirs: vec![dir.join("bin"), dir.join("more")], ..config(dir) }
}

pub const TWO: &str = r#"{"cniVersion":"1.0.0","name":"two","plugins":[{"type":"first"},
    {"type":"second","capabilities":{"portMappings":true}}]}"#;

/// A host with the network [`TWO`]; its plugins do what these scripts say.
pub fn two(first: &str, second: &str) -> (TempDir, Networks) {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), "10.conflist", TWO);
    plugin(dir.path(), "first", first);
    plugin(dir.path(), "second", second);
    let networks = Networks::open(&scripted(dir.path())).unwrap();
    (dir, networks)
}
