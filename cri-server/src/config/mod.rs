//! Settings: a flag overrides the files, they override the default, and each setting keeps its source.
//!
//! ```text
//!  flags (clap) ----------.
//!  conf.d/*.toml ---------+--> resolve --> Settings, every one a Setting { value, source }
//!  config.toml -----------|
//!  defaults --------------'
//! ```
//!
//! One structure, [`RawSettings`], describes both the flags and a file: no setting exists in only one of
//! them.

mod listen;
mod print;
mod raw;
mod resolve;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crisp_sandbox::network::{Exclusions, PodCidrs, PodCidrsV6};
pub use listen::ListenAddress;
pub use print::{differences, print};
pub use raw::{CgroupDriver, LogFormat, NetworkFlag, NetworkKind, RawSettings};
pub(crate) use resolve::check_log_level;
pub use resolve::{ConfigError, present_file};

/// Read if it exists and `--config` names no other file.
pub const DEFAULT_FILE: &str = "/etc/crisp/config.toml";

/// The source of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Neither a flag nor a file sets it.
    Default,
    /// A configuration file.
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

/// A value and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value in force.
    pub value: T,
    /// The place where it was set.
    pub source: Source,
}

impl<T> Setting<T> {
    /// Whether no flag and no file sets it.
    pub fn is_default(&self) -> bool {
        self.source == Source::Default
    }

    /// Changes the default: a value that was set stays.
    pub fn set_default(&mut self, value: T) {
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
    /// The group whose members may use that socket.
    pub listen_group: Setting<Option<String>>,
    /// Data that survives a reboot: images, layers, containers.
    pub root: Setting<PathBuf>,
    /// Data that does not survive a reboot: sockets, the monitors' folders.
    pub state: Setting<PathBuf>,
    /// One folder per registry, each with a `hosts.toml`.
    pub registry_config_dir: Setting<PathBuf>,
    /// Bytes that the files of one image layer may have together.
    pub max_layer_bytes: Setting<u64>,
    /// Files and directories that one image layer may make.
    pub max_layer_files: Setting<u64>,
    /// How often all image layers are checked; None for never.
    pub image_check_interval: Setting<Option<Duration>>,
    /// Bytes at which the log of a container that no kubelet made is rotated; 0 for never.
    pub container_log_max_size: Setting<u64>,
    /// Files that are kept of such a log.
    pub container_log_max_files: Setting<u32>,
    /// The network of pods.
    pub network: Setting<NetworkKind>,
    /// CNI configurations.
    pub cni_conf_dir: Setting<PathBuf>,
    /// CNI plugins, searched in this order.
    pub cni_bin_dir: Setting<Vec<PathBuf>>,
    /// CDI specs; a later folder goes before an earlier one.
    pub cdi_spec_dir: Setting<Vec<PathBuf>>,
    /// A template for a CNI configuration.
    pub cni_conf_template: Setting<Option<PathBuf>>,
    /// How long one call of a CNI plugin may take.
    pub cni_timeout: Setting<Duration>,
    /// How often the CNI verb CHECK is called; None for never.
    pub cni_check_interval: Setting<Option<Duration>>,
    /// Whether the CNI verb GC is used.
    pub cni_gc: Setting<bool>,
    /// Address pools of the built-in network.
    pub pod_cidr: Setting<PodCidrs>,
    /// The same for IPv6.
    pub pod_cidr_v6: Setting<PodCidrsV6>,
    /// Destinations to which pods of the built-in network are not masqueraded.
    pub masquerade_except: Setting<Exclusions>,
    /// Bridge of the built-in network.
    pub bridge_name: Setting<String>,
    /// The address of exec, attach and port-forward streams.
    pub stream_listen: Setting<SocketAddr>,
    /// The certificate chain of that address; without one it has no TLS.
    pub stream_cert: Setting<Option<PathBuf>>,
    /// Its key.
    pub stream_key: Setting<Option<PathBuf>>,
    /// Time from SIGHUP to SIGKILL for a command whose exec client is gone.
    pub exec_grace: Setting<Duration>,
    /// The address of `/metrics`; None for no metrics page.
    pub metrics_listen: Setting<Option<SocketAddr>>,
    /// The certificate chain of that address; without one it has no TLS.
    pub metrics_cert: Setting<Option<PathBuf>>,
    /// Its key.
    pub metrics_key: Setting<Option<PathBuf>>,
    /// The authorities of its clients.
    pub metrics_client_ca: Setting<Option<PathBuf>>,
    /// The token of its clients.
    pub metrics_token_file: Setting<Option<PathBuf>>,
    /// The collector of traces, as HOST:PORT; None for no traces.
    pub tracing_endpoint: Setting<Option<String>>,
    /// Of a million requests without a trace of their client, so many begin one.
    pub tracing_sampling_rate_per_million: Setting<u32>,
    /// The program that makes the cgroups.
    pub cgroup_driver: Setting<CgroupDriver>,
    /// The filter of the log.
    pub log_level: Setting<String>,
    /// The form of the log.
    pub log_format: Setting<LogFormat>,
}
