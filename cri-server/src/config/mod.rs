//! Settings: a flag wins over the file, the file over the default, and each remembers where it is from.
//!
//! ```text
//!  flags (clap) --.
//!  file (TOML) ---+--> resolve --> Settings, every one a Setting { value, source }
//!  defaults ------'
//! ```
//!
//! One structure, [`Given`], is both the flags and the file: there is no setting that only one of them has.

mod given;
mod listen;
mod print;
mod resolve;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crisp_sandbox::network::PodCidrs;
pub use given::{CgroupDriver, Given};
pub use listen::ListenAddress;
pub use print::print;

/// Read when it exists and `--config` names no other.
pub const DEFAULT_FILE: &str = "/etc/crisp/config.toml";

/// Where a setting is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// The command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A value and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// What is in force.
    pub value: T,
    /// Who said so.
    pub source: Source,
}

impl<T> Setting<T> {
    /// Whether nobody chose it.
    pub fn is_default(&self) -> bool {
        self.source == Source::Default
    }

    /// Changes it unless somebody chose it.
    pub fn or_rather(&mut self, value: T) {
        if self.is_default() {
            self.value = value;
        }
    }
}

/// All settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The socket of the gRPC services.
    pub listen: Setting<ListenAddress>,
    /// What survives a reboot: images, layers, containers.
    pub root: Setting<PathBuf>,
    /// What does not: sockets, the monitors' folders.
    pub state: Setting<PathBuf>,
    /// One folder per registry, each with a `hosts.toml`.
    pub registry_config_dir: Setting<PathBuf>,
    /// CNI configurations; with none in it, the built-in network is used.
    pub cni_conf_dir: Setting<PathBuf>,
    /// CNI plugins, searched in this order.
    pub cni_bin_dir: Setting<Vec<PathBuf>>,
    /// Address pools of the built-in network.
    pub pod_cidr: Setting<PodCidrs>,
    /// Bridge of the built-in network.
    pub bridge_name: Setting<String>,
    /// Where exec, attach and port-forward streams are served.
    pub stream_listen: Setting<SocketAddr>,
    /// Where `/metrics` is served, if anywhere.
    pub metrics_listen: Setting<Option<SocketAddr>>,
    /// Who makes cgroups.
    pub cgroup_driver: Setting<CgroupDriver>,
    /// What is logged.
    pub log_level: Setting<String>,
}
