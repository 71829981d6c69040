//! The hub's network and the programs that control the cluster.

use std::path::Path;
use std::process::{Child, Command};

use super::images;
use crate::kubernetes::Kubectl;
use crate::kubernetes::Transport;
use crate::kubernetes::api_server::{ApiServer, spawn};
use crate::programs::{CONTROLLER_MANAGER, Program, SCHEDULER};
use crate::{Registry, Result};

/// The bridge of the nodes, and its address.
pub(super) const BRIDGE: &str = "nodes";
pub(super) const ADDRESS: &str = "10.77.0.1";
pub(super) const API_SERVER: &str = "10.77.0.1:6443";
pub(super) const REGISTRY: &str = "10.77.0.1:5000";

pub(super) struct ControlPlane {
    api_server: ApiServer,
    others: Vec<Child>,
    _registry: Registry,
}

impl ControlPlane {
    /// Starts all of it, and pushes the images.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["address", "add", &format!("{ADDRESS}/24"), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        let registry = Registry::start_at(REGISTRY, &folder.join("registry"), &[])?;
        images::push(&registry)?;
        let api_server = ApiServer::start_at(&folder.join("control-plane"), API_SERVER, &[])?;
        let mut this = Self { api_server, others: vec![], _registry: registry };
        let key = this.api_server.key().display().to_string();
        let authority = this.api_server.certificate().display().to_string();
        let plugins = folder.join("control-plane/volume-plugins").display().to_string();
        this.spawn(
            folder,
            CONTROLLER_MANAGER,
            &[
                "--allocate-node-cidrs=true",
                "--cluster-cidr=10.244.0.0/16",
                "--service-cluster-ip-range=10.96.0.0/16",
                &format!("--service-account-private-key-file={key}"),
                &format!("--root-ca-file={authority}"),
                &format!("--flex-volume-plugin-dir={plugins}"),
            ],
        )?;
        this.spawn(folder, SCHEDULER, &[])?;
        Ok(this)
    }

    fn spawn(&mut self, folder: &Path, program: Program, flags: &[&str]) -> Result<()> {
        let log = folder.join(format!("{}.log", program.name));
        let child = spawn(&program.path(), &log, |command| {
            command.arg("--kubeconfig").arg(self.api_server.kubeconfig());
            command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]).args(flags);
        })?;
        self.others.push(child);
        Ok(())
    }

    pub(super) fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.api_server.kubeconfig(), Transport::WebSocket)
    }

    pub(super) fn kubeconfig(&self) -> std::path::PathBuf {
        self.api_server.kubeconfig()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for child in &mut self.others {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs `ip` in the hub's network.
pub(super) fn ip(words: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(words).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("ip {words:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
