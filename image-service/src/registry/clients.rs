//! The connections and proofs that outlive one pull.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::credentials::Credentials;
use super::dial::Proxies;
use super::http::{HttpClient, Timeouts};
use super::source::Source;
use super::tls::TlsOptions;
use super::token::ProofCache;
use crate::mirror::Endpoint;
use crate::reference::Reference;

/// Clients kept at most; each is one set of TLS files and time-outs, so few exist.
const MAX_CLIENTS: usize = 32;

/// Makes sources; keeps connections open and tokens known between pulls.
pub(crate) struct Clients {
    timeouts: Timeouts,
    proxies: Proxies,
    proofs: Arc<ProofCache>,
    clients: Mutex<HashMap<ClientKey, HttpClient>>,
}

/// A changed certificate file makes a new client, so that a renewed one is used without a restart.
#[derive(PartialEq, Eq, Hash)]
struct ClientKey {
    tls: TlsOptions,
    changed: Vec<(PathBuf, Option<SystemTime>)>,
    timeouts: Timeouts,
}

impl Clients {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        let (proxies, proofs) = (Proxies::from_env(), Arc::default());
        Self { timeouts, proxies, proofs, clients: Mutex::default() }
    }

    /// `endpoint` as a source of the reference's repository.
    pub(crate) fn source(
        &self,
        endpoint: Endpoint,
        of: &Reference,
        credentials: Option<&Credentials>,
    ) -> Source {
        let http = self.client(&endpoint);
        Source::new(endpoint, http, of.repository(), of.registry(), credentials, self.proofs.clone())
    }

    fn client(&self, endpoint: &Endpoint) -> HttpClient {
        let connect = endpoint.dial_timeout.unwrap_or(self.timeouts.connect);
        // Somebody who waits long for a connection means to wait for the answer, too.
        let answer = self.timeouts.answer.max(endpoint.dial_timeout.unwrap_or_default() * 2);
        let timeouts = Timeouts { connect, answer, ..self.timeouts };
        let tls = endpoint.tls.clone();
        let files = tls.client.iter().flat_map(|p| std::iter::once(&p.cert).chain(&p.key)).chain(&tls.ca);
        let changed = files
            .map(|path| (path.clone(), std::fs::metadata(path).and_then(|m| m.modified()).ok()))
            .collect();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        let make = || HttpClient::new(tls.clone(), timeouts, self.proxies.clone());
        clients.entry(ClientKey { tls: tls.clone(), changed, timeouts }).or_insert_with(make).clone()
    }
}
