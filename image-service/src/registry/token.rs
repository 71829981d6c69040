//! Proves to a registry who asks: Basic, or a token from the token server that it names
//! (distribution specification, "token authentication"; OAuth2 refresh for identity tokens).

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;

use super::challenge::Challenge;
use super::credentials::{Credentials, Proof, basic_header, bearer_header};
use super::error::EndpointError;
use super::http::{Ask, HttpClient};
use super::secret::Secret;
use super::url::{Url, escape};

/// A token without `expires_in` lives this long, says the specification.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Proofs remembered at most; beyond it the oldest promise little.
const MAX_REMEMBERED: usize = 512;
/// Longest answer of a token server.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;

/// Which proof is meant: at this server, for this repository, by this user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ProofKey {
    pub(crate) origin: String,
    pub(crate) repository: String,
    pub(crate) fingerprint: String,
}

/// `Authorization` headers that worked, until they expire.
#[derive(Default)]
pub(crate) struct ProofCache(Mutex<HashMap<ProofKey, Granted>>);

struct Granted {
    header: HeaderValue,
    expires: Instant,
}

impl ProofCache {
    pub(crate) fn get(&self, key: &ProofKey) -> Option<HeaderValue> {
        let cache = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        cache.get(key).filter(|g| g.expires > Instant::now()).map(|g| g.header.clone())
    }

    fn put(&self, key: &ProofKey, header: HeaderValue, life: Duration) {
        let mut cache = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        if cache.len() >= MAX_REMEMBERED {
            cache.retain(|_, g| g.expires > now);
        }
        if cache.len() >= MAX_REMEMBERED {
            cache.clear();
        }
        // Renewed a little early, so that it does not expire on its way.
        cache.insert(key.clone(), Granted { header, expires: now + life - life / 10 });
    }
}

/// Who asks whom for what.
pub(crate) struct Asker<'a> {
    pub(crate) http: &'a HttpClient,
    pub(crate) endpoint: &'a Url,
    pub(crate) repository: &'a str,
    pub(crate) credentials: Option<&'a Credentials>,
    /// Said when there are no credentials to send.
    pub(crate) why_no_credentials: &'static str,
}

impl Asker<'_> {
    /// Answers `challenge` and remembers the proof.
    pub(crate) async fn prove(
        &self,
        challenge: &Challenge,
        cache: &ProofCache,
        key: &ProofKey,
    ) -> Result<HeaderValue, EndpointError> {
        let (header, life) = match (challenge, self.credentials.map(|c| &c.proof)) {
            (_, Some(Proof::Bearer { token })) => (bearer_header(token), DEFAULT_LIFE),
            (Challenge::Basic, Some(Proof::Basic { username, password })) => {
                (basic_header(username, password), Duration::from_secs(3600))
            }
            (Challenge::Basic, Some(Proof::Identity { .. })) => {
                let why = "it wants a user name and password, the request has an identity token".to_owned();
                return Err(EndpointError::Unauthenticated { why });
            }
            (Challenge::Basic, None) => {
                return Err(EndpointError::Unauthenticated { why: self.why_no_credentials.to_owned() });
            }
            (Challenge::Bearer { realm, service, scope, .. }, proof) => {
                let (token, life) =
                    self.fetch_token(realm, service.as_deref(), scope.as_deref(), proof).await?;
                (bearer_header(&token), life)
            }
        };
        let header = header.ok_or_else(|| EndpointError::Unauthenticated {
            why: "the credentials have characters that no header may carry".to_owned(),
        })?;
        cache.put(key, header.clone(), life);
        Ok(header)
    }

    async fn fetch_token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        proof: Option<&Proof>,
    ) -> Result<(Secret, Duration), EndpointError> {
        let realm =
            Url::parse(realm).map_err(|e| EndpointError::Protocol { why: format!("token realm {e}") })?;
        if proof.is_some() && self.endpoint.is_https() && !realm.is_https() {
            let why = format!(
                "it names {} as token server, and credentials are not sent unencrypted",
                realm.origin()
            );
            return Err(EndpointError::Unauthenticated { why });
        }
        let own_scope = format!("repository:{}:pull", self.repository);
        let scope = scope.unwrap_or(&own_scope);
        let ask = match proof {
            Some(Proof::Identity { token }) => refresh_request(&realm, service, scope, token),
            _ => token_request(&realm, service, scope, proof),
        };
        let wrap = |source| EndpointError::Token { realm: realm.origin(), source: Box::new(source) };
        self.exchange(&ask).await.map_err(wrap)
    }

    async fn exchange(&self, ask: &Ask) -> Result<(Secret, Duration), EndpointError> {
        let response = self.http.send(ask).await?;
        if response.status() != StatusCode::OK {
            return Err(match self.http.refusal(response).await {
                // OAuth2 servers answer 400 to a refresh token that is not theirs or has expired.
                EndpointError::Status { status: 400, detail, .. } => {
                    EndpointError::Unauthenticated { why: format!("answered 400{detail}") }
                }
                other => other,
            });
        }
        let body = self.http.read_all(response, MAX_TOKEN_ANSWER, "a token").await?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| EndpointError::Protocol { why: "its answer is not a token".to_owned() })?;
        let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token).unwrap_or_default();
        if token.is_empty() {
            return Err(EndpointError::Protocol { why: "its answer holds no token".to_owned() });
        }
        let life = answer.expires_in.filter(|s| *s > 0).map_or(DEFAULT_LIFE, Duration::from_secs);
        Ok((Secret::new(token), life.min(Duration::from_secs(24 * 3600))))
    }
}

fn token_request(realm: &Url, service: Option<&str>, scope: &str, proof: Option<&Proof>) -> Ask {
    let mut url = realm.clone();
    if let Some(service) = service {
        url = url.with_query("service", service);
    }
    for one in scope.split_ascii_whitespace() {
        url = url.with_query("scope", one);
    }
    let mut ask = Ask::new(Method::GET, url);
    if let Some(Proof::Basic { username, password }) = proof
        && let Some(value) = basic_header(username, password)
    {
        ask.private.insert(header::AUTHORIZATION, value);
    }
    ask
}

fn refresh_request(realm: &Url, service: Option<&str>, scope: &str, token: &Secret) -> Ask {
    let mut ask = Ask::new(Method::POST, realm.clone());
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", "crisp"),
        ("service", service.unwrap_or_default()),
        ("scope", scope),
        ("refresh_token", token.expose()),
    ];
    let body: Vec<String> = form.iter().map(|(k, v)| format!("{k}={}", escape(v))).collect();
    ask.body = Bytes::from(body.join("&"));
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    ask.headers.insert(header::CONTENT_TYPE, kind);
    ask
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}
