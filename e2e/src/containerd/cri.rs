//! A containerd that serves the CRI: with runc, and Debian's CNI plugins.

use std::process::Command;

use serde_json::json;

use super::Containerd;
use crate::kubernetes::Runtime;
use crate::programs::{self, CONTAINERD, CTR, Program, RUNC, SHIM};
use crate::{Client, Result};

const PLUGINS: &str = "/usr/lib/cni";
/// The pods' addresses, which no other test uses.
const ADDRESSES: &str = "10.199.78.0/24";

/// A running containerd for pods. Dropping it ends containerd, and takes the pods' processes and mounts away.
pub struct Cri {
    containerd: Containerd,
    bridge: String,
}

impl Cri {
    pub const PROGRAMS: [Program; 4] = [CONTAINERD, SHIM, CTR, RUNC];
    /// The CNI plugin that it uses, for the check whether it is installed.
    pub const PLUGIN: &str = "/usr/lib/cni/bridge";

    /// Starts it, and builds the programs before. `pause`: a reference of the image whose container holds the
    /// namespaces of a pod.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start(pause: &str) -> Result<Self> {
        programs::build(&Self::PROGRAMS)?;
        let folder = Containerd::new_folder()?;
        let networks = folder.path().join("cni");
        let bridge = format!("cc{}", std::process::id());
        std::fs::create_dir(&networks)?;
        let ipam = json!({
            "type": "host-local", "dataDir": folder.path().join("addresses"),
            "ranges": [[{"subnet": ADDRESSES}]], "routes": [{"dst": "0.0.0.0/0"}],
        });
        let plugin = json!({"type": "bridge", "bridge": bridge, "isGateway": true, "ipam": ipam});
        let network = json!({"cniVersion": "1.0.0", "name": "compared", "plugins": [plugin]});
        std::fs::write(networks.join("10-compared.conflist"), network.to_string())?;
        // Some hosts drop CAP_SYS_RESOURCE, without which the score cannot be lowered.
        let config = format!(
            r#"[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {pause:?}
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{PLUGINS:?}]
conf_dir = {networks:?}
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {runc:?}
"#,
            runc = RUNC.path(),
        );
        let containerd = Containerd::start_in(folder, &config, "k8s.io")?;
        Ok(Self { containerd, bridge })
    }

    /// For a kubelet on it, whose cAdvisor asks containerd for the containers' names.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        let socket = self.containerd.socket();
        Runtime {
            folder: self.containerd.folder().to_owned(),
            name: self.bridge.clone(),
            args: vec![format!("--containerd={}", socket.display())],
            config: String::new(),
            socket,
        }
    }

    /// The whole log.
    #[must_use]
    pub fn log(&self) -> String {
        self.containerd.log()
    }

    /// Removes all pods, and ends containerd.
    ///
    /// # Errors
    /// When a pod cannot be removed.
    pub async fn close(self) -> Result<()> {
        Client::connect(&self.containerd.socket()).await?.remove_pods().await?;
        Ok(())
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        self.containerd.remove_tasks();
        crate::leak::unmount_below(self.containerd.folder());
        let link = ["link", "delete", &self.bridge];
        let _ = Command::new("ip").args(link).stderr(std::process::Stdio::null()).status();
    }
}
