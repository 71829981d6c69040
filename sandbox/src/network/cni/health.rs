//! Whether a new pod would get its network from CNI.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Cni;
use super::attach::plugin_config;
use super::config::{NetworkList, Version};
use super::exec::{Verb, find};
use crate::network::NetworkError;

/// How long an answer of the plugins to STATUS is believed.
const FRESH: Duration = Duration::from_secs(10);

/// The plugins' last answer to STATUS.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<LastAnswer>);

#[derive(Debug, Default)]
struct LastAnswer {
    network: Option<Arc<NetworkList>>,
    asked: Option<Instant>,
    /// `None` until the first answer.
    complaint: Option<Option<String>>,
}

impl Cni {
    /// Which network is in force, for people; an error when it can't be used.
    pub(in crate::network) fn status(
        self: &Arc<Self>,
        network: &Arc<NetworkList>,
    ) -> Result<String, NetworkError> {
        self.check_installed(network)?;
        if network.version >= Version::V1_1_0 {
            self.answered(network)?;
        }
        Ok(format!("CNI network {:?} of {}", network.name, network.path.display()))
    }

    /// An error for the first program of the network that is not there.
    pub(super) fn check_installed(&self, network: &NetworkList) -> Result<(), NetworkError> {
        for plugin in &network.plugins {
            for program in [Some(plugin.kind.as_str()), plugin.ipam()].into_iter().flatten() {
                find(program, &self.bin_dirs).ok_or_else(|| self.missing(network, program))?;
            }
        }
        Ok(())
    }

    /// The last answer to STATUS; asks again in the background when that is old.
    fn answered(self: &Arc<Self>, network: &Arc<NetworkList>) -> Result<(), NetworkError> {
        let mut last = self.health.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.network.as_ref() != Some(network) {
            *last = LastAnswer { network: Some(Arc::clone(network)), ..LastAnswer::default() };
        }
        let runtime = tokio::runtime::Handle::try_current();
        if let (true, Ok(runtime)) = (last.asked.is_none_or(|at| at.elapsed() > FRESH), runtime) {
            last.asked = Some(Instant::now());
            let (cni, network) = (Arc::clone(self), Arc::clone(network));
            runtime.spawn(async move { cni.ask(network).await });
        }
        match &last.complaint {
            Some(None) => Ok(()),
            Some(Some(why)) => {
                Err(NetworkError::CniNotReady { network: network.name.clone(), why: why.clone() })
            }
            None => {
                let why = "its plugins have not answered STATUS yet".to_owned();
                Err(NetworkError::CniNotReady { network: network.name.clone(), why })
            }
        }
    }

    async fn ask(&self, network: Arc<NetworkList>) {
        let mut complaint = None;
        for plugin in &network.plugins {
            let config = plugin_config(&network, plugin, None, None);
            if let Err(error) = self.call_with(&network, plugin, Verb::Status, &[], &config).await {
                complaint = Some(error.to_string());
                break;
            }
        }
        let mut last = self.health.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The configuration may have changed while they were asked.
        if last.network.as_ref() == Some(&network) {
            last.complaint = Some(complaint);
        }
    }
}
