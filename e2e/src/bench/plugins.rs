//! Debian's CNI plugins `bridge` and `portmap`: as the network of a Crisp, and run by hand.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_cri::v1::StatusRequest;
use serde_json::{Value, json};

use super::Effort;
use super::table::Row;
use crate::{Machine, Result, Setup};

const PLUGINS: &str = "/usr/lib/cni";

/// A bridge of these plugins, which is removed with it.
#[derive(Debug)]
pub struct PluginBridge {
    bridge: String,
    folder: PathBuf,
}

impl PluginBridge {
    /// Its addresses are kept in the folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { bridge: format!("cb{}", std::process::id()), folder: folder.join("ipam") }
    }

    fn plugins(&self) -> [Value; 2] {
        let ipam = json!({
            "type": "host-local",
            "dataDir": self.folder,
            "ranges": [[{"subnet": "10.199.76.0/22"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        });
        let bridge = json!({"type": "bridge", "bridge": self.bridge, "isGateway": true, "ipMasq": false, "ipam": ipam});
        [bridge, json!({"type": "portmap", "capabilities": {"portMappings": true}})]
    }

    /// The setup of a Crisp whose pods it serves, and that has the configuration of [`Self::configure`].
    #[must_use]
    pub fn setup(&self) -> Setup {
        let args = vec!["--cni-bin-dir".into(), PLUGINS.into()];
        Setup { cni: true, no_registry: true, args, ..Setup::default() }
    }

    /// Writes the configuration, and waits until the server has read it.
    ///
    /// # Errors
    /// The server does not take it within ten seconds.
    pub async fn configure(&self, machine: &Machine) -> Result<()> {
        let config = json!({"cniVersion": "1.0.0", "name": "bench", "plugins": self.plugins()});
        std::fs::write(machine.cni().join("10-bench.conflist"), config.to_string())?;
        let mut client = machine.client().await?;
        for _ in 0..100 {
            let status = client.runtime.status(StatusRequest::default()).await?.into_inner().status;
            let conditions = status.map(|status| status.conditions).unwrap_or_default();
            if conditions.iter().any(|condition| condition.r#type == "NetworkReady" && condition.status) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("the server does not take the CNI configuration".into())
    }

    /// Times ADD of both plugins in a namespace that is there already.
    ///
    /// # Errors
    /// A plugin failed.
    pub fn by_hand(&self, effort: Effort, pause: Duration) -> Result<Row> {
        let mut times = Vec::new();
        for round in 0..effort.cycles {
            let name = format!("bench-{}-{round}", std::process::id());
            run("ip", &["netns", "add", &name])?;
            std::thread::sleep(pause);
            let begun = Instant::now();
            let added = self.all("ADD", &name);
            times.push(begun.elapsed());
            let removed = added.and_then(|()| self.all("DEL", &name));
            run("ip", &["netns", "delete", &name])?;
            removed?;
        }
        Ok(Row::times("by hand", "ADD of bridge and portmap", &times))
    }

    /// One plugin after the other, each with the result of the one before.
    fn all(&self, verb: &str, name: &str) -> Result<()> {
        let mut result = Value::Null;
        for plugin in self.plugins() {
            let mut config = plugin.clone();
            config["cniVersion"] = json!("1.0.0");
            config["name"] = json!("by-hand");
            if !result.is_null() {
                config["prevResult"] = result.clone();
            }
            let kind = plugin["type"].as_str().unwrap_or_default();
            let output = call(kind, verb, name, &config)?;
            if verb == "ADD" {
                result = serde_json::from_slice(&output)?;
            }
        }
        Ok(())
    }
}

impl Drop for PluginBridge {
    fn drop(&mut self) {
        let _ = run("ip", &["link", "delete", &self.bridge]);
    }
}

fn call(kind: &str, verb: &str, name: &str, config: &Value) -> Result<Vec<u8>> {
    let mut child = Command::new(Path::new(PLUGINS).join(kind))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", name)
        .env("CNI_NETNS", format!("/run/netns/{name}"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.to_string().as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("{kind} {verb}: {}", String::from_utf8_lossy(&output.stdout)).into());
    }
    Ok(output.stdout)
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program).args(args).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{program} {args:?}: {status}").into()) }
}
