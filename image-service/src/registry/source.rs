//! One endpoint as a source of one repository: knows its address, its proof and its connections.

use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, RANGE};
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;

use super::challenge::Challenge;
use super::credentials::{Credentials, sensitive};
use super::error::EndpointError;
use super::http::{Ask, HttpClient};
use super::token::{Asker, ProofCache, ProofKey};
use super::url::Url;
use crate::mirror::Endpoint;

/// One endpoint, asked about one repository on behalf of one user.
pub(crate) struct Source {
    pub(crate) endpoint: Endpoint,
    pub(crate) http: HttpClient,
    repository: String,
    credentials: Option<Credentials>,
    why_no_credentials: &'static str,
    proofs: Arc<ProofCache>,
    key: ProofKey,
    /// Held while a proof is renewed, so that parallel layers do not each fetch a token.
    renewing: tokio::sync::Mutex<()>,
}

impl Source {
    pub(crate) fn new(
        endpoint: Endpoint,
        http: HttpClient,
        repository: &str,
        registry: &str,
        credentials: Option<&Credentials>,
        proofs: Arc<ProofCache>,
    ) -> Self {
        let allowed =
            credentials.filter(|c| c.are_for(&endpoint.url, endpoint.is_registry(), registry)).cloned();
        let why_no_credentials = if credentials.is_some() && allowed.is_none() {
            "the credentials of the request are for another server"
        } else {
            "the request has no credentials"
        };
        let key = ProofKey {
            origin: endpoint.url.to_string(),
            repository: repository.to_owned(),
            fingerprint: allowed.as_ref().map(Credentials::fingerprint).unwrap_or_default(),
        };
        let (repository, renewing) = (repository.to_owned(), tokio::sync::Mutex::new(()));
        Self { endpoint, http, repository, credentials: allowed, why_no_credentials, proofs, key, renewing }
    }

    /// Asks for `kind/wanted` of the repository (`manifests/latest`); the answer is a success.
    pub(crate) async fn ask(
        &self,
        method: Method,
        kind_and_wanted: &str,
        accept: Option<&'static str>,
        range_from: u64,
    ) -> Result<Response<Incoming>, EndpointError> {
        let mut ask = self.prepare(method, kind_and_wanted, accept, range_from);
        let configured = ask.private.get(AUTHORIZATION).is_some();
        let mut used = self.proofs.get(&self.key);
        // The second try has a fresh proof; a third would only repeat it.
        for last in [false, true] {
            if let Some(header) = &used {
                ask.private.insert(AUTHORIZATION, header.clone());
            }
            let response = self.http.send(&ask).await?;
            if response.status().is_success() {
                return Ok(response);
            }
            if response.status() != StatusCode::UNAUTHORIZED || last || configured {
                return Err(self.http.refusal(response).await);
            }
            let Some(challenge) = Challenge::best(response.headers()) else {
                let why = "it names no way of authentication that is known here".to_owned();
                return Err(EndpointError::Unauthenticated { why });
            };
            drop(response);
            used = Some(self.renew(&challenge, used.as_ref()).await?);
        }
        Err(EndpointError::Protocol { why: "unreachable end of authentication".to_owned() })
    }

    /// The request without a proof.
    fn prepare(
        &self,
        method: Method,
        kind_and_wanted: &str,
        accept: Option<&'static str>,
        range_from: u64,
    ) -> Ask {
        let mut ask = Ask::new(method, self.url(kind_and_wanted));
        if let Some(accept) = accept {
            ask.headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if range_from > 0
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={range_from}-"))
        {
            ask.headers.insert(RANGE, value);
        }
        for (name, value) in &self.endpoint.headers {
            if let Some(value) = sensitive(value.expose()) {
                ask.private.append(name.clone(), value);
            }
        }
        ask
    }

    async fn renew(
        &self,
        challenge: &Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, EndpointError> {
        let _one_at_a_time = self.renewing.lock().await;
        if let Some(other) = self.proofs.get(&self.key).filter(|now| Some(now) != refused) {
            return Ok(other);
        }
        let asker = Asker {
            http: &self.http,
            endpoint: &self.endpoint.url,
            repository: &self.repository,
            credentials: self.credentials.as_ref(),
            why_no_credentials: self.why_no_credentials,
        };
        asker.prove(challenge, &self.proofs, &self.key).await
    }

    fn url(&self, kind_and_wanted: &str) -> Url {
        let url = self.endpoint.url.with_path(&format!("/{}/{kind_and_wanted}", self.repository));
        match &self.endpoint.namespace {
            Some(namespace) => url.with_query("ns", namespace),
            None => url,
        }
    }
}
