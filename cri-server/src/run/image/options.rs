//! The options of `crisp run IMAGE`, in docker's spelling.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::mounts::{self, MountOption};
use super::ports::{self, Ports};
use super::ulimits::{self, Ulimit};
use super::values::{self, Restart};

/// The pull policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    Always,
    Missing,
    Never,
}

/// The options of the container.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "With an IMAGE, as docker has them")]
pub struct Options {
    /// Send standard input to the container
    #[arg(long, short)]
    pub interactive: bool,
    /// Give the container a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Remove the container when it has ended; a foreground container always is
    #[arg(long)]
    pub rm: bool,
    /// Name of the container and of its pod [default: made from the image's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Publish a port: [[ADDRESS:][HOST]:]CONTAINER[/tcp|udp|sctp], ranges too
    #[arg(long, short, value_name = "PORT", value_parser = ports::publish)]
    pub publish: Vec<Ports>,
    /// Publish all ports that the image and --expose name, to free ports of the host
    #[arg(long, short = 'P')]
    pub publish_all: bool,
    /// A port for --publish-all
    #[arg(long, value_name = "PORT", value_parser = ports::expose)]
    pub expose: Vec<Ports>,
    /// [SOURCE:]TARGET[:ro,...]: a path of the host, or a named volume of this server (with -d) or of foreground runs; an empty named volume gets the image's files there, unless `nocopy` is said
    #[arg(long, short, value_name = "VOLUME", value_parser = mounts::volume)]
    pub volume: Vec<MountOption>,
    /// The same as type=bind|volume|tmpfs|image,source=...,target=...
    #[arg(long, value_name = "MOUNT", value_parser = mounts::mount)]
    pub mount: Vec<MountOption>,
    /// A folder in memory: TARGET[:size=64m]
    #[arg(long, value_name = "TARGET", value_parser = mounts::tmpfs)]
    pub tmpfs: Vec<MountOption>,
    /// host, none, default, a network of `crisp network`, or container:NAME or pod:NAME for the network of
    /// another; also the setting: auto, cni or built-in
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Vec<String>,
    /// Address in the --network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<std::net::Ipv4Addr>,
    /// The same for IPv6
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<std::net::Ipv6Addr>,
    /// Hardware address in the --network
    #[arg(long, value_name = "MAC")]
    pub mac_address: Option<String>,
    /// Another name in the --network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// Host name [default: the container's name]
    #[arg(long, short = 'h', value_name = "NAME")]
    pub hostname: Option<String>,
    /// DNS server, instead of the default ones
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<std::net::IpAddr>,
    /// Search domain; "." for none
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of the resolver, for example ndots:2
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// A line of /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// A variable: NAME=VALUE, or NAME to pass on crisp's own value
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// A file of variables
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// USER[:GROUP], by number; a user also by name
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    /// Supplementary group, by number
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Program instead of the image's; "" for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// no, on-failure[:N], always or unless-stopped: starts a new container with the same volumes [default:
    /// no]
    #[arg(long, value_name = "POLICY", value_parser = values::restart)]
    pub restart: Option<Restart>,
    /// Run a process as PID 1 of the pod that reaps orphaned processes
    #[arg(long)]
    pub init: bool,
    /// Signal that asks the container to end [default: the image's]
    #[arg(long, value_name = "SIGNAL", value_parser = values::signal)]
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u32>,
    /// A shell command that checks the container's health by its exit code: crisp ps shows it
    #[arg(long, value_name = "LINE")]
    pub health_cmd: Option<String>,
    /// Time between two checks [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = values::seconds, requires = "health_cmd")]
    pub health_interval: Option<Duration>,
    /// Time limit for one check [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = values::seconds, requires = "health_cmd")]
    pub health_timeout: Option<Duration>,
    /// Consecutive failures that make the container unhealthy [default: 3]
    #[arg(long, value_name = "NUMBER", requires = "health_cmd")]
    pub health_retries: Option<u32>,
    /// Time before the first check
    #[arg(long, value_name = "DURATION", value_parser = values::seconds, requires = "health_cmd")]
    pub health_start_period: Option<Duration>,
    /// No checks; checks that an image defines are never made
    #[arg(long, conflicts_with = "health_cmd")]
    pub no_healthcheck: bool,
    /// A label of the pod: KEY=VALUE
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// A file of labels
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// An annotation of the pod: KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Write the container's id to a new file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// When the image is pulled [default: missing]
    #[arg(long, value_enum)]
    pub pull: Option<Pull>,
    /// Do not show the progress of the pull
    #[arg(long, short)]
    pub quiet: bool,
    #[command(flatten)]
    pub limits: Limits,
    #[command(flatten)]
    pub security: Security,
}

impl Options {
    /// The policy in the form of a manifest.
    pub fn pull_policy(&self) -> &'static str {
        match self.pull.unwrap_or(Pull::Missing) {
            Pull::Always => "Always",
            Pull::Missing => "IfNotPresent",
            Pull::Never => "Never",
        }
    }
}

/// Limits of resources.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Limits of the container")]
pub struct Limits {
    /// Memory, as 512m
    #[arg(long, short, value_name = "BYTES", value_parser = values::memory)]
    pub memory: Option<u64>,
    /// Memory that is reserved for it when memory is short; cgroup v2 only
    #[arg(long, value_name = "BYTES", value_parser = values::memory)]
    pub memory_reservation: Option<u64>,
    /// Memory and swap together, -1 for no limit [default: no swap with --memory]
    #[arg(long, value_name = "BYTES", value_parser = values::swap, allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// CPUs, as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = values::cpus, conflicts_with_all = ["cpu_quota", "cpu_period"])]
    pub cpus: Option<u64>,
    /// Microseconds of CPU time in each period
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(i64).range(1000..))]
    pub cpu_quota: Option<i64>,
    /// Length of that period [default: 100000]
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(i64).range(1000..=1_000_000), requires = "cpu_quota")]
    pub cpu_period: Option<i64>,
    /// CPUs that may be used, as 0-2,4
    #[arg(long, value_name = "LIST", value_parser = values::cpu_list)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST", value_parser = values::cpu_list)]
    pub cpuset_mems: Option<String>,
    /// Maximal number of processes and threads, -1 for no limit; cgroup v2 only
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub pids_limit: Option<i64>,
    /// Preference of the kernel to kill it when memory is short: -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1000..=1000))]
    pub oom_score_adj: Option<i64>,
    /// A limit of the processes, as nofile=1024:4096: NAME=SOFT[:HARD], -1 for no limit
    #[arg(long, value_name = "LIMIT", value_parser = ulimits::ulimit)]
    pub ulimit: Vec<Ulimit>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    pub shm_size: Option<u64>,
}

/// The rights of the container.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Rights of the container")]
pub struct Security {
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Remove a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// All capabilities and devices
    #[arg(long)]
    pub privileged: bool,
    /// A device: PATH[:PATH[:rwm]], or by its CDI name
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// GPUs by their CDI names, nvidia.com/gpu=...: all, a number, or device=NAME,...
    #[arg(long, value_name = "GPUS")]
    pub gpus: Vec<String>,
    /// A kernel setting of the pod: NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// no-new-privileges, seccomp=unconfined|FILE, apparmor=unconfined|PROFILE, label=disable|KEY:VALUE, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// host: share the processes of the host
    #[arg(long, value_name = "host")]
    pub pid: Option<String>,
    /// host: share System V IPC and /dev/shm of the host; private: its own
    #[arg(long, value_name = "host|private")]
    pub ipc: Option<String>,
    /// host: the user ids of the host, which is the default
    #[arg(long, value_name = "host")]
    pub userns: Option<String>,
    /// private: its own view of cgroups, which is the default
    #[arg(long, value_name = "private")]
    pub cgroupns: Option<String>,
}
