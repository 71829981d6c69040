//! Names of pods, on the gateway of each built-in network.
//!
//! ```text
//!   pod --- "web"? ---> gateway:53, UDP and TCP
//!                          |  redirected by the network's packet rules, so that port 53 stays free for others
//!                       gateway:any                                     (responder)
//!                          |  a pod of the client's networks: its addresses (message)
//!                          '- anything else: the host's own resolvers     (forward)
//! ```
//!
//! A pod is found by its name, by `NAME.NAMESPACE` and by its aliases, from its own networks. Pods with their
//! own resolver settings, such as those of kubelet, do not use this.

mod forward;
mod message;
mod responder;
mod share;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crisp_executor::ids::PodId;
use tokio::task::spawn_blocking;

use super::NetworkError;
use super::builtin::Builtin;
use responder::Responder;

/// Parses a query and answers it.
#[cfg(feature = "fuzz")]
pub(crate) fn answer_query(message: &[u8]) {
    if let Some(query) = message::Query::read(message) {
        let ip = query.pointer().unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
        let known = message::DnsAnswer::Addresses(vec![ip; 64]);
        assert!(query.answer(&known, message::UDP_ANSWER).len() <= message::UDP_ANSWER);
    }
}

/// The responders of all networks.
#[derive(Debug, Default)]
pub(super) struct Dns {
    networks: Mutex<BTreeMap<String, Served>>,
    /// Locked while a network's packet rules are changed for its responder.
    starting: Mutex<()>,
}

/// The state of one network's responder.
#[derive(Debug)]
struct Served {
    network: Weak<Builtin>,
    gateways: Vec<IpAddr>,
    /// None when it cannot be served, which was logged. It is tried again with each pod.
    responder: Option<Responder>,
}

impl Dns {
    /// Serves the network, if it is not served already.
    pub(super) async fn ensure(self: &Arc<Self>, network: &Arc<Builtin>) {
        if !self.is_served(network) {
            let (dns, network) = (Arc::clone(self), Arc::clone(network));
            // Without a result: `start` logs its failures.
            let _ = spawn_blocking(move || dns.start(&network)).await;
        }
    }

    /// As [`Self::ensure`], on this thread.
    pub(super) fn ensure_here(self: &Arc<Self>, network: &Arc<Builtin>) {
        if !self.is_served(network) {
            self.start(network);
        }
    }

    fn is_served(&self, network: &Builtin) -> bool {
        let served = self.served();
        let served = served.get(network.name()).filter(|served| served.gateways == network.gateways());
        served.is_some_and(|served| served.responder.is_some()) && network.redirects_dns()
    }

    fn start(self: &Arc<Self>, network: &Arc<Builtin>) {
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let gateways = network.gateways();
        let Some(first) = gateways.first().copied().filter(|_| !self.is_served(network)) else { return };
        let name = network.name();
        let responder = self.serve(network, &gateways);
        let mut served = self.served();
        let is_new = served.get(name).is_none_or(|before| before.gateways != gateways);
        if let (Err(error), true) = (&responder, is_new) {
            tracing::warn!(network = name, address = %first, %error, "names of pods are not resolved: cannot serve DNS on the network's gateway");
        }
        served.insert(
            name.to_owned(),
            Served { network: Arc::downgrade(network), gateways, responder: responder.ok() },
        );
    }

    fn serve(
        self: &Arc<Self>,
        network: &Arc<Builtin>,
        gateways: &[IpAddr],
    ) -> Result<Responder, NetworkError> {
        let (responder, sockets) = Responder::start(self, network, gateways)?;
        network.redirect_dns(sockets)?;
        Ok(responder)
    }

    /// The gateways of all networks. Queries must never be forwarded back to them.
    fn gateways(&self) -> Vec<IpAddr> {
        self.served().values().flat_map(|served| served.gateways.iter().copied()).collect()
    }

    /// The networks that the pod is in, by name.
    fn networks_of(&self, pod: &PodId) -> Vec<Arc<Builtin>> {
        let all: Vec<Arc<Builtin>> =
            self.served().values().filter_map(|served| served.network.upgrade()).collect();
        all.into_iter().filter(|network| network.attachment(pod).is_some()).collect()
    }

    /// The resolver's address in the network; None when names are not resolved.
    pub(super) fn resolver(&self, network: &str) -> Option<IpAddr> {
        let all = self.served();
        let served = all.get(network).filter(|served| served.responder.is_some())?;
        served.gateways.first().copied()
    }

    /// Stops serving a removed network.
    pub(super) fn stop(&self, name: &str) {
        self.served().remove(name);
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<String, Served>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
