//! Responds to a server's challenge: with Basic, or with a token from the token server that it names
//! (distribution specification, "token authentication"; OAuth2 refresh for identity tokens).
//!
//! The token server is often on another host (`auth.docker.io`), so credentials are sent to any host that the
//! registry names. A registry with https can only name a token server with https.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use super::authorization::{AuthorizationCache, AuthorizationKey};
use super::challenge::Challenge;
use super::credentials::{Credentials, Login, basic_header, bearer_header};
use super::error::EndpointError;
use super::http::{HttpClient, HttpRequest};
use super::secret::Secret;
use super::url::{Url, escape};

/// The lifetime of a token without `expires_in`, by the specification.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// The time for which user name and password are sent without a new challenge.
const BASIC_LIFETIME: Duration = Duration::from_secs(3600);
/// Limit for the response of a token server.
const MAX_TOKEN_RESPONSE: u64 = 1 << 20;

/// Logs in to one server, for one repository.
pub(crate) struct Authenticator<'a> {
    pub(crate) http: &'a HttpClient,
    pub(crate) server: &'a Url,
    pub(crate) repository: &'a str,
    pub(crate) credentials: Option<&'a Credentials>,
    /// The reason in errors when there are no credentials to send.
    pub(crate) why_no_credentials: &'static str,
}

impl Authenticator<'_> {
    /// Responds to `challenge` and keeps the resulting `Authorization` header.
    pub(crate) async fn respond(
        &self,
        challenge: &Challenge,
        cache: &AuthorizationCache,
        key: &AuthorizationKey,
    ) -> Result<HeaderValue, EndpointError> {
        let (header, lifetime) = match (challenge, self.credentials.map(|c| &c.login)) {
            (_, Some(Login::Bearer { token })) => (bearer_header(token), DEFAULT_LIFETIME),
            (Challenge::Basic, Some(Login::Basic { username, password })) => {
                (basic_header(username, password), BASIC_LIFETIME)
            }
            (Challenge::Basic, Some(Login::Identity { .. })) => {
                let why = "it wants a user name and password, the request has an identity token".to_owned();
                return Err(EndpointError::Unauthenticated { why });
            }
            (Challenge::Basic, None) => {
                return Err(EndpointError::Unauthenticated { why: self.why_no_credentials.to_owned() });
            }
            (Challenge::Bearer { realm, service, scope }, login) => {
                let (token, lifetime) =
                    self.fetch_token(realm, service.as_deref(), scope.as_deref(), login).await?;
                (bearer_header(&token), lifetime)
            }
        };
        let header = header.ok_or_else(|| EndpointError::Unauthenticated {
            why: "the credentials have characters that no header may carry".to_owned(),
        })?;
        cache.put(key, header.clone(), lifetime);
        Ok(header)
    }

    async fn fetch_token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        login: Option<&Login>,
    ) -> Result<(Secret, Duration), EndpointError> {
        let realm =
            Url::parse(realm).map_err(|e| EndpointError::Protocol { why: format!("token realm {e}") })?;
        if self.server.is_https() && !realm.is_https() {
            let why = format!("it names the token server {}, which is not encrypted", realm.origin());
            return Err(EndpointError::Unauthenticated { why });
        }
        let of_repository = || format!("repository:{}:pull", self.repository);
        let own_scope = if self.repository.is_empty() { String::new() } else { of_repository() };
        let scope = scope.unwrap_or(&own_scope);
        let request = match login {
            Some(Login::Identity { token }) => refresh_request(&realm, service, scope, token),
            _ => token_request(&realm, service, scope, login),
        };
        let wrap = |source| EndpointError::Token { realm: realm.origin(), source: Box::new(source) };
        self.exchange(&request).await.map_err(wrap)
    }

    async fn exchange(&self, request: &HttpRequest) -> Result<(Secret, Duration), EndpointError> {
        let response = self.http.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(match self.http.refusal(response).await {
                // OAuth2 servers respond with 400 to a refresh token that is not valid or has expired.
                EndpointError::Status { status: 400, detail, .. } => {
                    EndpointError::Unauthenticated { why: format!("answered 400{detail}") }
                }
                other => other,
            });
        }
        let body = self.http.read_all(response, MAX_TOKEN_RESPONSE, "a token").await?;
        let response: TokenResponse = serde_json::from_slice(&body)
            .map_err(|_| EndpointError::Protocol { why: "its answer is not a token".to_owned() })?;
        let lifetime = response.lifetime();
        let token = response.token.filter(|t| !t.is_empty()).or(response.access_token).unwrap_or_default();
        if token.is_empty() {
            return Err(EndpointError::Protocol { why: "its answer holds no token".to_owned() });
        }
        Ok((Secret::new(token), lifetime))
    }
}

fn token_request(realm: &Url, service: Option<&str>, scope: &str, login: Option<&Login>) -> HttpRequest {
    let mut url = realm.clone();
    if let Some(service) = service {
        url = url.with_query("service", service);
    }
    for one in scope.split_ascii_whitespace() {
        url = url.with_query("scope", one);
    }
    let mut request = HttpRequest::new(Method::GET, url);
    if let Some(Login::Basic { username, password }) = login
        && let Some(value) = basic_header(username, password)
    {
        request.private.insert(header::AUTHORIZATION, value);
    }
    request
}

fn refresh_request(realm: &Url, service: Option<&str>, scope: &str, token: &Secret) -> HttpRequest {
    let mut request = HttpRequest::new(Method::POST, realm.clone());
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", "crisp"),
        ("service", service.unwrap_or_default()),
        ("scope", scope),
        ("refresh_token", token.expose()),
    ];
    let body: Vec<String> = form.iter().map(|(k, v)| format!("{k}={}", escape(v))).collect();
    request.body = Bytes::from(body.join("&"));
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers.insert(header::CONTENT_TYPE, kind);
    request
}

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds; a number for most servers, a text for some.
    expires_in: Option<Value>,
}

impl TokenResponse {
    fn lifetime(&self) -> Duration {
        let seconds = match &self.expires_in {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        let seconds = seconds.filter(|seconds: &f64| *seconds >= 1.0);
        // More seconds than a duration can hold count as its maximum.
        seconds.map_or(DEFAULT_LIFETIME, |s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_as_long_as_its_server_says_and_nothing_overflows() {
        for (expires_in, seconds) in
            [("300", 300), ("\"300\"", 300), ("300.5", 300), ("null", 60), ("-5", 60), ("0", 60), ("[]", 60)]
        {
            let response: TokenResponse =
                serde_json::from_str(&format!("{{\"token\":\"t\",\"expires_in\":{expires_in}}}")).unwrap();
            assert_eq!(response.lifetime().as_secs(), seconds, "{expires_in}");
        }
        for endless in ["18446744073709551615", "1e300", "\"inf\""] {
            let response: TokenResponse =
                serde_json::from_str(&format!("{{\"token\":\"t\",\"expires_in\":{endless}}}")).unwrap();
            assert!(response.lifetime() > Duration::from_secs(1 << 40), "{endless}");
        }
    }
}
