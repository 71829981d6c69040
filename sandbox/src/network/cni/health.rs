//! Checks whether a new pod would get its network from CNI.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::Cni;
use super::call::{complaint, plugin_config};
use super::config::{NetworkList, Plugin, Version};
use super::exec::{Verb, find};
use crate::network::NetworkError;

/// The validity of the plugins' responses.
const FRESH: Duration = Duration::from_secs(10);

/// Time limit for a node's first status to wait for the plugins.
const FIRST_RESPONSE: Duration = Duration::from_secs(2);

/// The plugins' last responses to VERSION and STATUS.
#[derive(Debug, Default)]
pub(super) struct Health {
    last: Mutex<LastResponse>,
    responded: Condvar,
}

#[derive(Debug, Default)]
struct LastResponse {
    network: Option<Arc<NetworkList>>,
    asked: Option<Instant>,
    /// A request that runs: plugins that hang are not asked again and again.
    under_way: bool,
    /// A status that has waited for the first response: the next ones do not.
    has_waited: bool,
    /// `None` until the first response. A network that was usable stays so after a change of its file until
    /// the plugins respond: a node must not become unready at each change.
    complaint: Option<Option<String>>,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, LastResponse> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The response to VERSION.
#[derive(Debug, Deserialize)]
struct Versions {
    #[serde(rename = "supportedVersions")]
    supported: Vec<String>,
}

impl Cni {
    /// The network in force, for people; an error when it cannot be used.
    pub(in crate::network) fn status(
        self: &Arc<Self>,
        network: &Arc<NetworkList>,
    ) -> Result<String, NetworkError> {
        self.check_installed(network)?;
        self.last_response(network)?;
        Ok(format!("CNI network {:?} of {}", network.name, network.path.display()))
    }

    /// Waits once, and for [`FIRST_RESPONSE`] at most, until the plugins of the network in force have responded:
    /// a server that has just started does not report a good network as unusable. Blocks.
    pub(in crate::network) fn await_first_response(self: &Arc<Self>, network: &Arc<NetworkList>) {
        let Err(NetworkError::CniNotReady { .. }) = self.status(network) else { return };
        let mut last = self.health.lock();
        if !std::mem::replace(&mut last.has_waited, true) {
            let none_yet = |last: &mut LastResponse| last.under_way && last.complaint.is_none();
            drop(self.health.responded.wait_timeout_while(last, FIRST_RESPONSE, none_yet));
        }
    }

    /// An error for the first program of the network that is not installed.
    pub(super) fn check_installed(&self, network: &NetworkList) -> Result<(), NetworkError> {
        for plugin in &network.plugins {
            for program in [Some(plugin.kind.as_str()), plugin.ipam()].into_iter().flatten() {
                find(program, &self.bin_dirs).ok_or_else(|| self.missing(network, program))?;
            }
        }
        Ok(())
    }

    /// The last response; requests a new one in the background when it is old.
    fn last_response(self: &Arc<Self>, network: &Arc<NetworkList>) -> Result<(), NetworkError> {
        let mut last = self.health.lock();
        if last.network.as_ref() != Some(network) {
            let is_same = last.network.as_ref().is_some_and(|before| before.name == network.name);
            let complaint = last.complaint.take().filter(|complaint| is_same && complaint.is_none());
            let network = Some(Arc::clone(network));
            *last = LastResponse { network, complaint, ..LastResponse::default() };
        }
        let has_status = network.version >= Version::V1_1_0;
        let complains = matches!(last.complaint, Some(Some(_)));
        let is_old = match last.asked {
            Some(at) => at.elapsed() > FRESH && (has_status || complains),
            None => true,
        };
        let runtime = tokio::runtime::Handle::try_current();
        if let (true, Ok(runtime)) = (is_old && !last.under_way, runtime) {
            (last.asked, last.under_way) = (Some(Instant::now()), true);
            let (cni, network) = (Arc::clone(self), Arc::clone(network));
            runtime.spawn(async move { cni.probe(network).await });
        }
        let why = match &last.complaint {
            Some(None) => return Ok(()),
            Some(Some(why)) => why.clone(),
            None if !has_status => return Ok(()),
            None => "its plugins have not answered STATUS yet".to_owned(),
        };
        Err(NetworkError::CniNotReady { network: network.name.clone(), path: network.path.clone(), why })
    }

    async fn probe(&self, network: Arc<NetworkList>) {
        let mut failure = None;
        for plugin in &network.plugins {
            failure = match self.probe_plugin(&network, plugin).await {
                Ok(()) => continue,
                Err(error) => Some(error.to_string()),
            };
            break;
        }
        let mut last = self.health.lock();
        // The configuration may have changed meanwhile.
        if last.network.as_ref() == Some(&network) {
            (last.complaint, last.under_way) = (Some(failure), false);
            self.health.responded.notify_all();
        }
    }

    async fn probe_plugin(&self, network: &NetworkList, plugin: &Plugin) -> Result<(), NetworkError> {
        let config = json!({"cniVersion": network.version.as_str()});
        let printed = self.call_with(network, plugin, Verb::Version, &[], &config).await;
        // Plugins that do not support the verb get no further calls.
        let versions = printed.ok().and_then(|text| serde_json::from_slice::<Versions>(&text).ok());
        if let Some(Versions { supported }) = versions
            && !supported.iter().any(|version| version == network.version.as_str())
        {
            let why = format!(
                "it speaks the versions {}, not {}: install a newer one, or set a lower cniVersion",
                supported.join(", "),
                network.version
            );
            return Err(complaint(network, plugin, Verb::Version, why));
        }
        if network.version >= Version::V1_1_0 {
            let config = plugin_config(network, plugin, None, None);
            self.call_with(network, plugin, Verb::Status, &[], &config).await?;
        }
        Ok(())
    }
}
