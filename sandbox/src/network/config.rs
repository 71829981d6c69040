use std::path::PathBuf;
use std::time::Duration;

use super::{Exclusions, PodCidrs, PodCidrsV6};

/// Plugins that request an address from a remote server need seconds; kubelet waits four minutes for a pod.
pub const DEFAULT_CNI_DEADLINE: Duration = Duration::from_secs(30);

/// A file that is replaced by deleting and writing it is missing for a moment, or half written.
const REPLACE_GRACE: Duration = Duration::from_secs(10);

/// Such networks are rare, and the verb GC costs a process for each plugin.
const COLLECT_INTERVAL: Duration = Duration::from_secs(300);

/// The network of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkKind {
    /// That of the CNI configuration. Without one there is no network yet: in a cluster a pod often installs
    /// it, and a pod with another network could not be reached from other nodes.
    #[default]
    Cni,
    /// The built-in one, independent of the CNI folder.
    BuiltIn,
    /// That of the CNI configuration, or the built-in one if there is none.
    CniOrBuiltIn,
}

/// The network's configuration and the folders for its records.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The network of pods.
    pub kind: NetworkKind,
    /// Folder with CNI configurations, usually `/etc/cni/net.d`. It may be missing.
    pub cni_conf_dir: PathBuf,
    /// How long the network of a configuration file stays in force when the file is missing or cannot be
    /// read, because it may be about to be replaced.
    pub cni_replace_grace: Duration,
    /// A template for a CNI configuration, if there is one.
    pub cni_conf_template: Option<PathBuf>,
    /// Folders with CNI plugins, searched in this order, usually `/opt/cni/bin` and `/usr/lib/cni`.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Time limit for one call of a CNI plugin, [`DEFAULT_CNI_DEADLINE`] by default.
    pub cni_deadline: Duration,
    /// The folder in which results of plugins are kept for other programs, in the subfolder `results`. Not
    /// `/var/lib/cni` on a node with another runtime: that runtime detaches pods that it did not attach
    /// itself.
    pub cni_cache_dir: PathBuf,
    /// How often the plugins check that the networks of pods are intact (CHECK); None for never.
    pub cni_check_interval: Option<Duration>,
    /// How often networks of pods that are no more are looked for and given back.
    pub collect_interval: Duration,
    /// Whether the CNI verb GC is used. It makes the plugins free every address of the network that does not
    /// belong to a pod of this server, so it must be the only runtime on that network. Without it, pods are
    /// detached only by their own records.
    pub cni_gc: bool,
    /// Address pools of the built-in network; the first one that overlaps nothing is taken.
    pub pod_cidrs: PodCidrs,
    /// The same for IPv6.
    pub pod_cidrs_v6: PodCidrsV6,
    /// Destinations to which pods of the built-in network are not masqueraded.
    pub masquerade_except: Exclusions,
    /// The built-in network's bridge, `crisp0` by default.
    pub bridge_name: String,
    /// Volatile folder for the built-in network's records: a reboot removes both them and the interfaces.
    pub state_dir: PathBuf,
    /// Persistent folder for CNI records: a plugin may keep an address across a reboot, so the server must
    /// still know that it has to be released.
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
            collect_interval: COLLECT_INTERVAL,
            cni_gc: false,
            pod_cidrs: PodCidrs::default(),
            pod_cidrs_v6: PodCidrsV6::default(),
            masquerade_except: Exclusions::default(),
            bridge_name: "crisp0".to_owned(),
            state_dir: "/run/crisp/network".into(),
            root_dir: "/var/lib/crisp/network".into(),
        }
    }
}
