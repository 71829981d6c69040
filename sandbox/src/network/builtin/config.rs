use std::path::{Path, PathBuf};

use crate::network::{Addresses, Exclusions, NetworkConfig, PodCidrs, PodCidrsV6};

/// The name of the network that a pod gets by default.
pub(in crate::network) const DEFAULT: &str = "default";

/// The configuration of one built-in network.
#[derive(Debug, Clone)]
pub(in crate::network) struct BuiltinConfig {
    pub name: String,
    pub bridge: String,
    pub pools: PodCidrs,
    pub pools_v6: PodCidrsV6,
    /// For its records.
    pub state_dir: PathBuf,
    pub options: Options,
}

/// Options that can differ between networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Options {
    /// MTU of the pods' interfaces. None: 1500, or that of the route out if it is smaller.
    pub mtu: Option<u32>,
    /// There is no route to the outside.
    pub internal: bool,
    /// Pods of the network can reach each other.
    pub icc: bool,
    /// Destinations to which pods are not masqueraded.
    pub masquerade_except: Exclusions,
    /// Limits for the pods' addresses.
    pub addresses: Addresses,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: None,
            internal: false,
            icc: true,
            masquerade_except: Exclusions::default(),
            addresses: Addresses::default(),
        }
    }
}

impl BuiltinConfig {
    /// The default network, from the settings.
    pub(in crate::network) fn of_settings(config: &NetworkConfig) -> Self {
        Self {
            name: DEFAULT.to_owned(),
            bridge: config.bridge_name.clone(),
            pools: config.pod_cidrs.clone(),
            pools_v6: config.pod_cidrs_v6.clone(),
            state_dir: config.state_dir.clone(),
            options: Options { masquerade_except: config.masquerade_except.clone(), ..Options::default() },
        }
    }

    /// The folder with the records of a named network.
    pub(in crate::network) fn folder_of(name: &str, state_dir: &Path) -> PathBuf {
        PathBuf::from(format!("{}/named/{name}", state_dir.display()))
    }
}
