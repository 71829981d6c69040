//! One repository at one server: address, credentials and connections, with the login that its requests need.

use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, RANGE};
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;

use super::authenticate::Authenticator;
use super::authorization::{AuthorizationCache, AuthorizationKey};
use super::challenge::Challenge;
use super::credentials::{Credentials, sensitive};
use super::error::EndpointError;
use super::host::Host;
use super::http::{HttpClient, HttpRequest};
use super::url::Url;

/// The repository of a [`Source`].
pub(crate) struct Target<'a> {
    /// The registry of the reference; the server may be one of its mirrors.
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
    /// Whether the server is the registry itself.
    pub(crate) is_registry: bool,
    /// The credentials of the pull; used only if they are for this server.
    pub(crate) credentials: Option<&'a Credentials>,
}

/// One repository at one server, for one user.
pub(crate) struct Source {
    host: Host,
    pub(super) http: HttpClient,
    repository: String,
    credentials: Option<Credentials>,
    why_no_credentials: &'static str,
    authorizations: Arc<AuthorizationCache>,
    key: AuthorizationKey,
    /// Held during a login, so that parallel layers do not each fetch a token.
    logging_in: tokio::sync::Mutex<()>,
}

impl Source {
    pub(crate) fn new(
        host: Host,
        http: HttpClient,
        target: &Target<'_>,
        authorizations: Arc<AuthorizationCache>,
    ) -> Self {
        let given = target.credentials;
        let allowed = given.filter(|c| c.are_for(&host.url, target.is_registry, target.registry)).cloned();
        let why_no_credentials = if given.is_some() && allowed.is_none() {
            "the credentials of the request are for another server"
        } else {
            "the request has no credentials"
        };
        let key = AuthorizationKey {
            origin: host.url.to_string(),
            repository: target.repository.to_owned(),
            fingerprint: allowed.as_ref().map(Credentials::fingerprint).unwrap_or_default(),
        };
        Self {
            host,
            http,
            repository: target.repository.to_owned(),
            credentials: allowed,
            why_no_credentials,
            authorizations,
            key,
            logging_in: tokio::sync::Mutex::new(()),
        }
    }

    /// Requests `path` of the repository (`manifests/latest`), and logs in if the server requires it. The
    /// response is a success.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        accept: Option<&'static str>,
        range_from: u64,
    ) -> Result<Response<Incoming>, EndpointError> {
        let mut request = self.prepare(method, path, accept, range_from);
        let configured = request.private.get(AUTHORIZATION).is_some();
        let mut used = self.authorizations.get(&self.key).filter(|_| !configured);
        // The second try has a new login; a third would only repeat it.
        for last in [false, true] {
            if let Some(header) = &used {
                request.private.insert(AUTHORIZATION, header.clone());
            }
            let response = self.http.send(&request).await?;
            if response.status().is_success() {
                return Ok(response);
            }
            if response.status() != StatusCode::UNAUTHORIZED || last || configured {
                return Err(self.http.refusal(response).await);
            }
            let Some(challenge) = Challenge::best(response.headers()) else {
                let why = "it names no way of authentication that is supported".to_owned();
                return Err(EndpointError::Unauthenticated { why });
            };
            drop(response);
            used = Some(self.log_in(&challenge, used.as_ref()).await?);
        }
        Err(EndpointError::Protocol { why: "unreachable end of authentication".to_owned() })
    }

    /// Requests the base path, and logs in if the server requires it (distribution specification,
    /// "Determining Support").
    pub(crate) async fn ping(&self) -> Result<(), EndpointError> {
        self.request(Method::GET, "", None, 0).await.map(drop)
    }

    /// The request without a login.
    fn prepare(
        &self,
        method: Method,
        path: &str,
        accept: Option<&'static str>,
        range_from: u64,
    ) -> HttpRequest {
        let mut request = HttpRequest::new(method, self.url(path));
        if let Some(accept) = accept {
            request.headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if range_from > 0
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={range_from}-"))
        {
            request.headers.insert(RANGE, value);
        }
        for (name, value) in &self.host.headers {
            if let Some(value) = sensitive(value.expose()) {
                request.private.append(name.clone(), value);
            }
        }
        request
    }

    async fn log_in(
        &self,
        challenge: &Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, EndpointError> {
        let _one_at_a_time = self.logging_in.lock().await;
        if let Some(other) = self.authorizations.get(&self.key).filter(|now| Some(now) != refused) {
            return Ok(other);
        }
        let authenticator = Authenticator {
            http: &self.http,
            server: &self.host.url,
            repository: &self.repository,
            credentials: self.credentials.as_ref(),
            why_no_credentials: self.why_no_credentials,
        };
        authenticator.respond(challenge, &self.authorizations, &self.key).await
    }

    fn url(&self, path: &str) -> Url {
        // Without a repository, the registry itself is meant.
        let place =
            if self.repository.is_empty() { "/".to_owned() } else { format!("/{}/{path}", self.repository) };
        let url = self.host.url.with_path(&place);
        match &self.host.namespace {
            Some(namespace) => url.with_query("ns", namespace),
            None => url,
        }
    }
}
