use std::path::PathBuf;
use std::time::Duration;

use super::{PodCidrs, PodCidrsV6};

/// Plugins that fetch an address from far away need seconds; kubelet waits four minutes for a pod.
pub const DEFAULT_CNI_DEADLINE: Duration = Duration::from_secs(30);

/// A file that is replaced by deleting and writing it is gone for a moment, or half written.
const REPLACE_GRACE: Duration = Duration::from_secs(10);

/// Which network pods get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkKind {
    /// That of the CNI configuration. Without one there is no network yet: in a cluster it is often a pod
    /// that brings it, and a pod that got another network meanwhile would not be reached from other nodes.
    #[default]
    Cni,
    /// The built-in one, whatever the CNI folder holds.
    BuiltIn,
    /// That of the CNI configuration, or the built-in one where there is none.
    CniOrBuiltIn,
}

/// Where the network finds its configuration and keeps its records.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Which network pods get.
    pub kind: NetworkKind,
    /// Folder with CNI configurations, usually `/etc/cni/net.d`. It may be missing.
    pub cni_conf_dir: PathBuf,
    /// How long the network of a configuration file stays in force when the file is gone or cannot be read
    /// any more, as it may be about to be replaced.
    pub cni_replace_grace: Duration,
    /// A CNI configuration to be filled in with the node's pod CIDR, if there is one.
    pub cni_conf_template: Option<PathBuf>,
    /// Folders with CNI plugins, searched in this order, usually `/opt/cni/bin` and `/usr/lib/cni`.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// How long one call of one CNI plugin may take, [`DEFAULT_CNI_DEADLINE`] by default.
    pub cni_deadline: Duration,
    /// Where results of plugins are kept for other programs, in the folder `results`. Not `/var/lib/cni` on a
    /// node with another runtime: that one takes off what it did not attach itself.
    pub cni_cache_dir: PathBuf,
    /// How often the plugins are asked whether pods still have what they were given (CHECK), if at all.
    pub cni_check_interval: Option<Duration>,
    /// Whether the CNI verb GC is used. It makes the plugins free every address of the network that is not
    /// a pod's of this server, so it must be the only runtime on that network. Without it, pods are
    /// detached by their own records alone.
    pub cni_gc: bool,
    /// Address pools of the built-in network; the first one that overlaps nothing is taken.
    pub pod_cidrs: PodCidrs,
    /// The same for IPv6.
    pub pod_cidrs_v6: PodCidrsV6,
    /// The built-in network's bridge, `crisp0` by default.
    pub bridge_name: String,
    /// Volatile folder for the built-in network's records: a reboot takes them and the interfaces alike.
    pub state_dir: PathBuf,
    /// Persistent folder for CNI records: a plugin may keep an address across a reboot, so we must
    /// still know that it must be released.
    pub root_dir: PathBuf,
}

impl Default for NetworkConfig {
    /// The defaults of `crisp serve`.
    fn default() -> Self {
        Self {
            kind: NetworkKind::default(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_replace_grace: REPLACE_GRACE,
            cni_conf_template: None,
            cni_bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cni_deadline: DEFAULT_CNI_DEADLINE,
            cni_cache_dir: "/var/lib/crisp/network".into(),
            cni_check_interval: None,
            cni_gc: false,
            pod_cidrs: PodCidrs::default(),
            pod_cidrs_v6: PodCidrsV6::default(),
            bridge_name: "crisp0".to_owned(),
            state_dir: "/run/crisp/network".into(),
            root_dir: "/var/lib/crisp/network".into(),
        }
    }
}
