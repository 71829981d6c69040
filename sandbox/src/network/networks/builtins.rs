//! The built-in networks: the default one of the settings, and named ones.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crisp_executor::ids::PodId;

use crate::network::builtin::{Builtin, BuiltinConfig, DEFAULT, Options};
use crate::network::definition::{Definition, Definitions};
use crate::network::node_cidr::NodeCidr;
use crate::network::{Attachment, NetworkConfig, NetworkError, PodCidrs, PodCidrsV6};

#[derive(Debug)]
pub(super) struct Builtins {
    pub default: Arc<Builtin>,
    named: RwLock<BTreeMap<String, (Definition, Arc<Builtin>)>>,
    pub definitions: Definitions,
    /// Locked while a network is made or removed.
    pub changing: Mutex<()>,
    state_dir: PathBuf,
}

/// The folder of definitions, in the persistent folder.
const DEFINITIONS: &str = "networks";

impl Builtins {
    pub(super) fn open(config: &NetworkConfig, node: Option<NodeCidr>) -> Result<Self, NetworkError> {
        let builtins = Self {
            default: Arc::new(Builtin::open(BuiltinConfig::of_settings(config), node)?),
            named: RwLock::default(),
            definitions: Definitions::open(config.root_dir.join(DEFINITIONS))?,
            changing: Mutex::default(),
            state_dir: config.state_dir.clone(),
        };
        for definition in builtins.definitions.load()? {
            match Builtin::open(builtins.config_of(&definition), None) {
                Ok(network) => builtins.insert(definition, Arc::new(network)),
                // The others are served.
                Err(error) => tracing::error!(
                    network = definition.name, %error,
                    "a network cannot be opened: no pod joins it until the server starts again and can"
                ),
            }
        }
        Ok(builtins)
    }

    /// The settings of a network with this definition.
    pub(super) fn config_of(&self, definition: &Definition) -> BuiltinConfig {
        let Definition { name, bridge, pools, mtu, internal, icc, masquerade_except, addresses, .. } =
            definition;
        BuiltinConfig {
            name: name.clone(),
            bridge: bridge.clone(),
            pools: PodCidrs::of(vec![pools.v4]),
            pools_v6: pools.v6.map_or(PodCidrsV6::Off, |pool| PodCidrsV6::Of(vec![pool])),
            state_dir: BuiltinConfig::folder_of(name, &self.state_dir),
            options: Options {
                mtu: *mtu,
                internal: *internal,
                icc: *icc,
                masquerade_except: masquerade_except.clone(),
                addresses: addresses.clone(),
            },
        }
    }

    pub(super) fn insert(&self, definition: Definition, network: Arc<Builtin>) {
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        named.insert(definition.name.clone(), (definition, network));
        self.keep_default_off(&named);
    }

    pub(super) fn forget(&self, name: &str) {
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        named.remove(name);
        self.keep_default_off(&named);
    }

    /// Named networks have their pools from the start.
    fn keep_default_off(&self, named: &BTreeMap<String, (Definition, Arc<Builtin>)>) {
        let pools = named.values().flat_map(|(definition, _)| definition.pools.networks());
        self.default.keep_off(pools.collect());
    }

    /// The network of that name.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Builtin>> {
        if name == DEFAULT {
            return Some(Arc::clone(&self.default));
        }
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        named.get(name).map(|(_, network)| Arc::clone(network))
    }

    /// The named networks, by name.
    pub(super) fn named(&self) -> Vec<(Definition, Arc<Builtin>)> {
        self.named.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn all(&self) -> Vec<Arc<Builtin>> {
        let named = self.named().into_iter().map(|(_, network)| network);
        std::iter::once(Arc::clone(&self.default)).chain(named).collect()
    }

    /// The networks of the pod.
    pub(super) fn of_pod(&self, pod: &PodId) -> Vec<Arc<Builtin>> {
        self.all().into_iter().filter(|network| network.attachment(pod).is_some()).collect()
    }

    pub(super) fn attachments(&self, pod: &PodId) -> Vec<Attachment> {
        self.all().iter().filter_map(|network| network.attachment(pod)).collect()
    }
}
