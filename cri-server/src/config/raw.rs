//! Settings as they are written: one structure for the command line and the file.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;

/// Every setting; all are optional. The field names, with dashes, are the flags and the keys of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Settings")]
pub struct RawSettings {
    /// A flag of every command, because clients use it too.
    #[arg(skip)]
    pub listen: Option<String>,

    /// Group whose members may use the socket, by name or number: that is as much as root; "off" for root
    /// alone [default: off]
    #[arg(long, hide_short_help = true, value_name = "GROUP")]
    pub listen_group: Option<String>,

    /// Folder for data that survives a reboot: images, layers, containers [default: /var/lib/crisp]
    #[arg(long, hide_short_help = true, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// Folder for data that does not survive a reboot: sockets and files of running pods [default: /run/crisp]
    #[arg(long, hide_short_help = true, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// Folder with one folder per registry, each with a hosts.toml that lists mirrors, in containerd's
    /// format [default: /etc/crisp/certs.d]
    #[arg(long, hide_short_help = true, value_name = "DIR")]
    pub registry_config_dir: Option<PathBuf>,

    /// Bytes that the files of one image layer may have together; whatever this is, a layer leaves a tenth of what
    /// is free on the file system [default: 274877906944, 256 GiB]
    #[arg(long, hide_short_help = true, value_name = "BYTES")]
    pub max_layer_bytes: Option<u64>,

    /// Files and directories that one image layer may make [default: 8388608]
    #[arg(long, hide_short_help = true, value_name = "COUNT")]
    pub max_layer_files: Option<u64>,

    /// How often all image layers are read, slowly, to find damage, for example 168h; "off" for never
    /// [default: off]
    #[arg(long, hide_short_help = true, value_name = "INTERVAL")]
    pub image_check_interval: Option<String>,

    /// Bytes at which the log of a container that no kubelet made is rotated; 0 for never [default: 10485760, 10 MiB]
    #[arg(long, hide_short_help = true, value_name = "BYTES")]
    pub container_log_max_size: Option<u64>,

    /// Files that are kept of such a log, with the present one; at least 2 [default: 5]
    #[arg(long, hide_short_help = true, value_name = "COUNT")]
    pub container_log_max_files: Option<u32>,

    /// Set by [`NetworkFlag`]; for `crisp run` also the network of a container.
    #[arg(skip)]
    pub network: Option<NetworkKind>,

    /// Folder with CNI configurations; the first usable one by name is in force
    /// [default: /etc/cni/net.d]
    #[arg(long, hide_short_help = true, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,

    /// Folders with CNI plugins, searched in this order; repeat it or put colons between them
    /// [default: /opt/cni/bin:/usr/lib/cni]
    #[arg(long, hide_short_help = true, value_name = "DIR", value_delimiter = ':')]
    pub cni_bin_dir: Option<Vec<PathBuf>>,

    /// Folders with CDI specs, which vendors write for their devices; a later folder takes precedence over an
    /// earlier one; repeat it or put colons between them [default: /etc/cdi:/var/run/cdi]
    #[arg(long, hide_short_help = true, value_name = "DIR", value_delimiter = ':')]
    pub cdi_spec_dir: Option<Vec<PathBuf>>,

    /// CNI configuration in containerd's conf_template form; crisp fills in the node's pod CIDR and writes it
    /// to --cni-conf-dir; "off" for none [default: off]
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub cni_conf_template: Option<String>,

    /// Seconds that one call of a CNI plugin may take; then it is killed [default: 30]
    #[arg(long, hide_short_help = true, value_name = "SECONDS")]
    pub cni_timeout: Option<u16>,

    /// How often CNI plugins check that the networks of pods are intact (CHECK), for example 10m; "off" for
    /// never [default: off]
    #[arg(long, hide_short_help = true, value_name = "INTERVAL")]
    pub cni_check_interval: Option<String>,

    /// Call the CNI verb GC: only when no other runtime uses the same CNI networks [default: false]
    #[arg(long, hide_short_help = true, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub cni_gc: Option<bool>,

    /// Address pools of the built-in network, separated by commas: the first that overlaps no route of the
    /// host is used; "auto" for a list of usual ones [default: auto]
    #[arg(long, hide_short_help = true, value_name = "CIDR,...")]
    pub pod_cidr: Option<String>,

    /// The same for IPv6; "off" for pods without IPv6, "auto" for networks of this machine where the host has
    /// IPv6 [default: auto]
    #[arg(long, hide_short_help = true, value_name = "CIDR,...")]
    pub pod_cidr_v6: Option<String>,

    /// Destinations that pods of the built-in network reach with their own address, because these have a route
    /// back to the pods, for example the cluster's pod network; "off" for none [default: off]
    #[arg(long, hide_short_help = true, value_name = "CIDR,...")]
    pub masquerade_except: Option<String>,

    /// Bridge of the built-in network [default: crisp0]
    #[arg(long, hide_short_help = true, value_name = "NAME")]
    pub bridge_name: Option<String>,

    /// Address for exec, attach and port-forward streams; port 0 takes any [default: 127.0.0.1:0]
    #[arg(long, hide_short_help = true, value_name = "IP:PORT")]
    pub stream_listen: Option<String>,

    /// PEM file with the certificate chain for streams, read again when it changes; "off" for no TLS
    /// [default: off]
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub stream_cert: Option<String>,

    /// PEM file with the key of --stream-cert [default: off]
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub stream_key: Option<String>,

    /// Seconds between SIGHUP and SIGKILL for a command whose exec client is gone [default: 10]
    #[arg(long, hide_short_help = true, value_name = "SECONDS")]
    pub exec_grace: Option<u16>,

    /// Address for Prometheus to scrape; "off" for none [default: off]
    #[arg(long, hide_short_help = true, value_name = "IP:PORT")]
    pub metrics_listen: Option<String>,

    /// PEM file with the certificate chain for --metrics-listen, read again when it changes; "off" for no TLS
    /// [default: off]
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub metrics_cert: Option<String>,

    /// PEM file with the key of --metrics-cert [default: off]
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub metrics_key: Option<String>,

    /// PEM file with authorities: only clients with a certificate of one of them may scrape; needs --metrics-cert
    /// [default: off]
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub metrics_client_ca: Option<String>,

    /// File with the bearer token that a client needs for all pages except /healthz, read for each request
    /// [default: off]
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub metrics_token_file: Option<String>,

    /// Collector of traces, for OTLP over gRPC without TLS; "off" for none [default: off]
    #[arg(long, hide_short_help = true, value_name = "HOST:PORT")]
    pub tracing_endpoint: Option<String>,

    /// How many of a million requests begin a trace, when their client has none; a trace of the client is followed
    /// if the client samples it [default: 0]
    #[arg(long, hide_short_help = true, value_name = "COUNT")]
    pub tracing_sampling_rate_per_million: Option<u32>,

    /// cgroup driver: which program makes the cgroups [default: auto]
    #[arg(long, hide_short_help = true, value_enum, value_name = "DRIVER")]
    pub cgroup_driver: Option<CgroupDriver>,

    /// A flag of every command.
    #[arg(skip)]
    pub log_level: Option<String>,

    /// Form of the log: "auto" is journald where systemd collects standard error, else text
    /// [default: auto]
    #[arg(long, hide_short_help = true, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// The flag of the setting `network`, for all commands except `crisp run`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Settings")]
pub struct NetworkFlag {
    /// Network of the pods; "auto" is cni for serve; for run it is cni if there is a configuration, else
    /// built-in [default: auto]
    #[arg(long, hide_short_help = true, value_enum, value_name = "KIND")]
    pub network: Option<NetworkKind>,
}

impl RawSettings {
    /// Adds the network's flag, which has a structure of its own.
    pub fn with_network(&mut self, flag: NetworkFlag) -> Self {
        Self { network: flag.network, ..std::mem::take(self) }
    }

    /// Keeps the settings of a configuration file that apply to a `crisp run`. The others belong to the
    /// machine's one server: its folders, addresses, pod network and periodic work.
    pub fn without_what_is_the_servers(self) -> Self {
        Self {
            listen: None,
            root: None,
            state: None,
            image_check_interval: None,
            network: None,
            cni_conf_template: None,
            cni_check_interval: None,
            cni_gc: None,
            pod_cidr: None,
            pod_cidr_v6: None,
            masquerade_except: None,
            bridge_name: None,
            stream_listen: None,
            stream_cert: None,
            stream_key: None,
            metrics_listen: None,
            tracing_endpoint: None,
            tracing_sampling_rate_per_million: None,
            log_format: None,
            ..self
        }
    }
}

/// The network of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// For `crisp serve`: cni. For `crisp run`: cni if there is a configuration, else built-in.
    Auto,
    /// That of the CNI configuration; pods fail until there is one.
    Cni,
    /// The built-in network.
    BuiltIn,
    /// The meaning of `auto` for `crisp run`.
    #[value(skip)]
    #[serde(skip)]
    CniOrBuiltIn,
}

impl std::fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cni => "cni",
            Self::BuiltIn => "built-in",
            Self::CniOrBuiltIn => "cni or built-in",
        })
    }
}

/// The program that makes the cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it is the init of a host with cgroup v2 alone, else cgroupfs.
    Auto,
    /// The runtime makes them in the cgroup file system.
    Cgroupfs,
    /// systemd makes a scope for each pod.
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

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// journald where standard error is its socket, else text.
    Auto,
    /// Lines for people, on standard error.
    Text,
    /// One JSON object per line, on standard error.
    Json,
    /// journald's own protocol: each field can be searched for, as in `journalctl POD=...`.
    Journald,
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
        })
    }
}
