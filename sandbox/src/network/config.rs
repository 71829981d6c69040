use std::path::PathBuf;

use super::PodCidrs;

/// Where the network finds its configuration and keeps its records.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Folder with CNI configurations, usually `/etc/cni/net.d`. It may be missing.
    pub cni_conf_dir: PathBuf,
    /// Folders with CNI plugins, searched in this order, usually `/opt/cni/bin` and `/usr/lib/cni`.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Address pools of the built-in network; the first one that overlaps nothing is taken.
    pub pod_cidrs: PodCidrs,
    /// The built-in network's bridge, `crisp0` unless told.
    pub bridge_name: String,
    /// Volatile folder for the built-in network's records: a reboot takes them and the interfaces alike.
    pub state_dir: PathBuf,
    /// Persistent folder for CNI records: a plugin may keep an address across a reboot, so we must
    /// still know that it is to be given back.
    pub root_dir: PathBuf,
}
