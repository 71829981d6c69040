//! What somebody gave: the same structure for the command line and for the file.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;

/// Every setting, none of them required. Field names with dashes are the flags and the keys of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Settings")]
pub struct Given {
    /// Unix socket of the gRPC services [default: unix:///run/crisp/crisp.sock]
    #[arg(long, short = 'l', global = true, value_name = "unix:///PATH")]
    pub listen: Option<String>,

    /// Folder for what survives a reboot: images, layers, containers [default: /var/lib/crisp]
    #[arg(long, global = true, hide_short_help = true, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// Folder for what does not survive a reboot: sockets, pods' processes [default: /run/crisp]
    #[arg(long, global = true, hide_short_help = true, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// Folder with one folder per registry, each with a hosts.toml that lists mirrors, in the form
    /// containerd's users know [default: /etc/crisp/certs.d]
    #[arg(long, global = true, hide_short_help = true, value_name = "DIR")]
    pub registry_config_dir: Option<PathBuf>,

    /// Folder with CNI configurations; without one in it the built-in network is used
    /// [default: /etc/cni/net.d]
    #[arg(long, global = true, hide_short_help = true, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,

    /// Folders with CNI plugins, searched in this order; repeat it or put colons between them
    /// [default: /opt/cni/bin:/usr/lib/cni]
    #[arg(long, global = true, hide_short_help = true, value_name = "DIR", value_delimiter = ':')]
    pub cni_bin_dir: Option<Vec<PathBuf>>,

    /// Address pools of the built-in network, with commas between them: the first that overlaps nothing on
    /// the host is taken; "auto" for a list of usual ones [default: auto]
    #[arg(long, global = true, hide_short_help = true, value_name = "CIDR,...")]
    pub pod_cidr: Option<String>,

    /// Bridge of the built-in network [default: crisp0]
    #[arg(long, global = true, hide_short_help = true, value_name = "NAME")]
    pub bridge_name: Option<String>,

    /// Address for exec, attach and port-forward streams; port 0 takes any [default: 127.0.0.1:0]
    #[arg(long, global = true, hide_short_help = true, value_name = "IP:PORT")]
    pub stream_listen: Option<String>,

    /// Address for Prometheus to scrape; "off" for none [default: off]
    #[arg(long, global = true, hide_short_help = true, value_name = "IP:PORT")]
    pub metrics_listen: Option<String>,

    /// Who makes cgroups [default: auto]
    #[arg(long, global = true, hide_short_help = true, value_enum, value_name = "DRIVER")]
    pub cgroup_driver: Option<CgroupDriver>,

    /// error, warn, info, debug or trace; also per crate, as in "info,crisp_sandbox=debug" [default: info]
    #[arg(long, global = true, hide_short_help = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// What this host needs.
    Auto,
    /// The runtime, in the cgroup file system.
    Cgroupfs,
    /// systemd.
    Systemd,
}

impl std::fmt::Display for CgroupDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        })
    }
}
