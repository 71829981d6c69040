use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use crisp_executor::ids::PodId;
use crisp_operation::record::RecordError;

use super::{InvalidPool, NetlinkError, Protocol};
use ipnet::IpNet;
use rustix::io::Errno;

/// The reason why a pod was not attached or not detached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The bridge's name can't be an interface name or part of a path.
    #[error("bridge-name {0:?} is not usable: 1 to 15 letters, digits, '-' or '_'")]
    BridgeName(String),
    /// A pool text was not understood.
    #[error("pod-cidr: {0}")]
    Cidr(#[from] InvalidPool),
    /// No pool is free.
    #[error(
        "pod address pool {pool} overlaps the host's route {route} on {device}: set {setting} to a network the host does not use"
    )]
    Overlap {
        /// The last pool tried.
        pool: IpNet,
        /// The name of the setting.
        setting: &'static str,
        /// The route that it overlaps.
        route: IpNet,
        /// The interface of that route.
        device: String,
    },
    /// A pool of IPv6 addresses was asked for on a host without IPv6.
    #[error(
        "pod-cidr-v6 is {0}, but IPv6 is off on this host (net.ipv6.conf.all.disable_ipv6): turn it on, or set pod-cidr-v6 to \"off\""
    )]
    NoIpv6(IpNet),
    /// The node has only IPv6 networks.
    #[error("the built-in network needs an IPv4 network: give the node one, or set pod-cidr")]
    NoIpv4,
    /// The bridge is not ours.
    #[error("interface {name} exists and {why}: set bridge-name to another name or delete it")]
    BridgeTaken {
        /// Interface.
        name: String,
        /// The reason.
        why: String,
    },
    /// All addresses are in use.
    #[error("no free address in {pools}: {used} in use; set pod-cidr to a larger network")]
    PoolExhausted {
        /// The pools of the network.
        pools: String,
        /// How many addresses pods hold.
        used: usize,
    },
    /// A pod requests an address that is not in the network's pools.
    #[error("{address} is not an address for a pod in {pools}")]
    NotInPool {
        /// The requested address.
        address: Ipv4Addr,
        /// The pools of the network.
        pools: String,
    },
    /// A pod requests an address, or a hardware address, that another pod has.
    #[error("{address} is in use by {holder}")]
    AddressInUse {
        /// The requested address.
        address: String,
        /// The pod.
        holder: String,
    },
    /// The network was removed while the pod was joining it.
    #[error("network {0} was removed")]
    Removed(String),
    /// A host port is taken.
    #[error("host port {port}/{protocol}{place} is already in use by {holder}")]
    PortInUse {
        /// Port.
        port: u16,
        /// Transport.
        protocol: Protocol,
        /// The requested address, as ` on ADDRESS`; empty for all addresses.
        place: String,
        /// Pod or process.
        holder: String,
    },
    /// The kernel refuses a socket for a host port.
    #[error(
        "cannot hold host port {port}/{protocol} open for the pod: {errno}; with too many open files, raise the server's limit of them"
    )]
    PortNotHeld {
        /// Port.
        port: u16,
        /// Transport.
        protocol: Protocol,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A port that the built-in network can't publish.
    #[error("host port {port}/{protocol}: {why}")]
    PortRefused {
        /// Port.
        port: u16,
        /// Transport.
        protocol: Protocol,
        /// Reason.
        why: String,
    },
    /// The pod has a network already.
    #[error("pod {pod} is attached to the network already: detach it first")]
    AlreadyAttached {
        /// Pod.
        pod: PodId,
    },
    /// A request to the kernel failed.
    #[error("{step}: {source}")]
    Netlink {
        /// The action and its object.
        step: String,
        /// The answer.
        source: NetlinkError,
    },
    /// Names of pods cannot be resolved.
    #[error("open a socket for DNS on {gateway}: {source}")]
    DnsSocket {
        /// The gateway of the network.
        gateway: IpAddr,
        /// The reason.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("{what} {path}: {source}")]
    File {
        /// read, write, remove, ...
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A pod's record could not be written.
    #[error("network record {0}")]
    Record(#[from] RecordError),
    /// There is no CNI configuration, and no other network was requested.
    #[error(
        "no CNI configuration in {}: the cluster's network brings one, or set network to \"built-in\"",
        dir.display()
    )]
    NoCniConfig {
        /// The folder in which it is searched.
        dir: PathBuf,
    },
    /// A CNI configuration is not usable.
    #[error("CNI configuration {path}: {field}: {why}")]
    CniConfig {
        /// File.
        path: PathBuf,
        /// Field, like `plugins[1].type`.
        field: String,
        /// The reason.
        why: String,
    },
    /// A plugin is not installed.
    #[error("CNI plugin {plugin:?} (network {network:?} of {}) is not in {dirs}: install it or set cni-bin-dir", path.display())]
    CniMissing {
        /// Plugin type.
        plugin: String,
        /// Network name.
        network: String,
        /// File that names the plugin.
        path: PathBuf,
        /// Folders searched.
        dirs: String,
    },
    /// A plugin failed.
    #[error("CNI plugin {plugin:?} ({command}, network {network:?}): {why}")]
    CniPlugin {
        /// Plugin type.
        plugin: String,
        /// ADD, DEL, ...
        command: &'static str,
        /// Network name.
        network: String,
        /// The plugin's message, or its exit status.
        why: String,
    },
    /// The plugins report that they cannot serve a pod now.
    #[error("CNI network {network:?} of {} is not ready: {why}", path.display())]
    CniNotReady {
        /// Network name.
        network: String,
        /// Its file.
        path: PathBuf,
        /// The plugin's message.
        why: String,
    },
    /// A value of the pod cannot be passed to the network.
    #[error("{key} {value:?}: {why}")]
    Annotation {
        /// Annotation or argument.
        key: &'static str,
        /// The value.
        value: String,
        /// The expected form.
        why: &'static str,
    },
    /// The networks that a pod requests are not available.
    #[error("annotation crisp/networks {value:?}: {why}")]
    Selection {
        /// The value, or the network's name.
        value: String,
        /// The reason.
        why: String,
    },
    /// Something failed, and so did undoing it.
    #[error("{error}; undoing it failed too: {undo}")]
    Undo {
        /// First failure.
        error: Box<NetworkError>,
        /// Failure of the undo.
        undo: Box<NetworkError>,
    },
    /// The caller has cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// A blocking step ended without an answer.
    #[error("network step {0} ended without an answer")]
    Interrupted(&'static str),
}

impl NetworkError {
    /// One word for the NetworkReady condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BridgeName(_) | Self::Cidr(_) => "NetworkSettingsInvalid",
            Self::Overlap { .. } => "PodCidrOverlaps",
            Self::NoIpv6(_) => "Ipv6Off",
            Self::NoIpv4 => "NoIpv4PodCidr",
            Self::BridgeTaken { .. } => "BridgeTaken",
            Self::PoolExhausted { .. } => "PodCidrExhausted",
            Self::PortInUse { .. } | Self::PortNotHeld { .. } | Self::PortRefused { .. } => "HostPortRefused",
            Self::AlreadyAttached { .. } => "AlreadyAttached",
            Self::DnsSocket { .. } | Self::Netlink { .. } => "KernelRefused",
            Self::File { .. } | Self::Record(_) => "FileFailed",
            // The term of containerd and CRI-O, for which people search.
            Self::NoCniConfig { .. } => "NetworkPluginNotReady",
            Self::CniConfig { .. } => "CniConfigInvalid",
            Self::CniMissing { .. } => "CniPluginMissing",
            Self::CniNotReady { .. } => "CniPluginNotReady",
            Self::Annotation { .. }
            | Self::Selection { .. }
            | Self::NotInPool { .. }
            | Self::AddressInUse { .. }
            | Self::Removed(_) => "PodNotAcceptable",
            Self::CniPlugin { .. } => "CniPluginFailed",
            Self::Undo { error, .. } => error.reason(),
            Self::Cancelled | Self::Interrupted(_) => "Interrupted",
        }
    }
}

/// Names the file in an error.
pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::File { what, path, source }
}
