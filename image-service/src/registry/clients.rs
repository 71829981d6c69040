//! The connections and logins that are kept between pulls.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::authorization::AuthorizationCache;
use super::body::Pace;
use super::host::Host;
use super::http::{HttpClient, Timeouts};
use super::proxy::Proxies;
use super::source::{Source, Target};
use super::tls::{Authorities, TlsOptions};

/// Limit for kept clients; each has one set of TLS files and time-outs, so there are few.
const MAX_CLIENTS: usize = 32;

/// Makes sources; keeps connections open and logins between pulls.
pub(crate) struct Clients {
    timeouts: Timeouts,
    proxies: Proxies,
    authorizations: Arc<AuthorizationCache>,
    clients: Mutex<HashMap<ClientKey, HttpClient>>,
}

/// A changed certificate file makes a new client, so that a renewed or newly trusted certificate is used
/// without a restart.
#[derive(PartialEq, Eq, Hash)]
struct ClientKey {
    tls: TlsOptions,
    changed: Vec<(PathBuf, Option<SystemTime>)>,
    timeouts: Timeouts,
}

impl Clients {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        let (proxies, authorizations) = (Proxies::from_env(), Arc::default());
        Self { timeouts, proxies, authorizations, clients: Mutex::default() }
    }

    /// The minimal speed of a body.
    pub(crate) fn pace(&self) -> Pace {
        self.timeouts.pace()
    }

    /// `host` as a source of `target`.
    pub(crate) fn source(&self, host: Host, target: &Target<'_>) -> Source {
        let http = self.client(&host);
        Source::new(host, http, target, self.authorizations.clone())
    }

    fn client(&self, host: &Host) -> HttpClient {
        let connect = host.dial_timeout.unwrap_or(self.timeouts.connect);
        // The time for the answer includes the time for the connection.
        let answer = self.timeouts.answer.max(host.dial_timeout.unwrap_or_default().saturating_mul(2));
        let timeouts = Timeouts { connect, answer, ..self.timeouts };
        let tls = host.tls.clone();
        let authorities = Authorities::of_system();
        let files = tls.client.iter().flat_map(|p| std::iter::once(&p.cert).chain(&p.key)).chain(&tls.ca);
        let changed = files
            .chain(authorities.paths())
            .map(|path| (path.clone(), std::fs::metadata(path).and_then(|m| m.modified()).ok()))
            .collect();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        let make = || HttpClient::new(tls.clone(), authorities, timeouts, self.proxies.clone());
        clients.entry(ClientKey { tls: tls.clone(), changed, timeouts }).or_insert_with(make).clone()
    }
}
