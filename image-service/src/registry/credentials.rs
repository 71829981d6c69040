//! The credentials of a pull, and the servers that may get them.
//!
//! The rule: credentials are for the registry that the reference names. They are sent to that registry
//! (`docker.io` includes `registry-1.docker.io`, and the `server = ` in its hosts.toml), and to a mirror only
//! when `server_address` names that mirror's host. containerd sends them to every mirror when
//! `server_address` is empty; here a user's password is never sent to machines that the user did not name.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::HeaderValue;

use super::secret::Secret;
use super::url::Url;
use crate::digest::{Algorithm, Hasher};

/// The credentials of a request, as in CRI's `AuthConfig`. Empty fields are unset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// User name, for Basic authentication and for token servers.
    pub username: String,
    /// The password to it.
    pub password: Secret,
    /// base64 of `username:password`, instead of the two.
    pub auth: Secret,
    /// The host (or URL) of these credentials. Empty for the registry of the reference.
    pub server_address: String,
    /// An OAuth2 refresh token, exchanged for access tokens at the registry's token server.
    pub identity_token: Secret,
    /// A bearer token, sent unchanged to the registry.
    pub registry_token: Secret,
}

/// The reason why credentials are not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuth {
    /// Not base64, or not text.
    #[error("the auth field of the credentials is not the base64 form of username:password")]
    Encoding,
    /// Base64 without a colon between name and password.
    #[error("the auth field of the credentials has no colon between user name and password")]
    NoColon,
    /// A user name with a colon cannot be sent in a Basic header.
    #[error("the user name of the credentials contains a colon")]
    ColonInUser,
    /// Control characters, which would end the header.
    #[error("the registry token of the credentials has characters that no header may carry")]
    Characters,
}

/// The login of one pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// User name and password.
    Basic { username: String, password: Secret },
    /// A refresh token for the token server.
    Identity { token: Secret },
    /// A ready bearer token.
    Bearer { token: Secret },
}

/// Validated credentials with their server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) login: Login,
    /// Normalised host[:port]; `None` means the registry of the reference.
    server: Option<String>,
}

impl Credentials {
    /// Reads a request's credentials; `None` when there are none.
    pub(crate) fn from_auth(auth: &Auth) -> Result<Option<Self>, InvalidAuth> {
        let login = if !auth.registry_token.is_empty() {
            bearer_header(&auth.registry_token).ok_or(InvalidAuth::Characters)?;
            Login::Bearer { token: auth.registry_token.clone() }
        } else if !auth.identity_token.is_empty() {
            Login::Identity { token: auth.identity_token.clone() }
        } else if !auth.username.is_empty() {
            Login::Basic { username: auth.username.clone(), password: auth.password.clone() }
        } else if !auth.auth.is_empty() {
            decode(&auth.auth)?
        } else {
            return Ok(None);
        };
        if let Login::Basic { username, .. } = &login
            && username.contains(':')
        {
            return Err(InvalidAuth::ColonInUser);
        }
        let server = Some(server_name(&auth.server_address)).filter(|s| !s.is_empty());
        Ok(Some(Self { login, server }))
    }

    /// Whether `endpoint` may get these credentials. `owner` says that the endpoint is `registry` itself, not
    /// a mirror of it.
    pub(crate) fn are_for(&self, endpoint: &Url, owner: bool, registry: &str) -> bool {
        match &self.server {
            None => owner,
            Some(server) => {
                *server == server_name(endpoint.authority()) || (owner && *server == server_name(registry))
            }
        }
    }

    /// Identifies a user without keeping a secret: for caches and for joining equal pulls.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        match &self.login {
            Login::Basic { username, password } => ["basic", username, password.expose()].map(&mut add),
            Login::Identity { token } => ["identity", token.expose(), ""].map(&mut add),
            Login::Bearer { token } => ["bearer", token.expose(), ""].map(&mut add),
        };
        add(self.server.as_deref().unwrap_or_default());
        hasher.finish().hex().to_owned()
    }
}

fn decode(auth: &Secret) -> Result<Login, InvalidAuth> {
    let text = auth.expose().trim();
    let bytes =
        STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).map_err(|_| InvalidAuth::Encoding)?;
    let text = String::from_utf8(bytes).map_err(|_| InvalidAuth::Encoding)?;
    // Some writers of docker configuration files pad with NUL.
    let (username, password) = text.trim_end_matches('\0').split_once(':').ok_or(InvalidAuth::NoColon)?;
    Ok(Login::Basic { username: username.to_owned(), password: Secret::new(password) })
}

/// `https://index.docker.io/v1/` and `registry-1.docker.io` are both `docker.io`.
fn server_name(text: &str) -> String {
    let text = text.trim();
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

/// `Basic …`, marked as sensitive so that debug output of a request does not show it.
pub(crate) fn basic_header(username: &str, password: &Secret) -> Option<HeaderValue> {
    let encoded = STANDARD.encode(format!("{username}:{}", password.expose()));
    sensitive(&format!("Basic {encoded}"))
}

/// `Bearer …`, marked as sensitive so that debug output of a request does not show it.
pub(crate) fn bearer_header(token: &Secret) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {}", token.expose()))
}

pub(crate) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(server_address: &str) -> Auth {
        Auth {
            username: "ann".into(),
            password: "pw".into(),
            server_address: server_address.into(),
            ..Auth::default()
        }
    }

    fn read(auth: &Auth) -> Credentials {
        Credentials::from_auth(auth).unwrap().unwrap()
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn without_a_server_address_only_the_registry_sees_them() {
        let credentials = read(&user(""));
        assert!(credentials.are_for(&url("https://r.io/v2"), true, "r.io"));
        assert!(!credentials.are_for(&url("https://mirror.io/v2"), false, "r.io"));
    }

    #[test]
    fn with_a_server_address_only_that_server_sees_them() {
        for address in ["https://mirror.io/v1/", "mirror.io", "MIRROR.io"] {
            let credentials = read(&user(address));
            assert!(credentials.are_for(&url("https://mirror.io/v2"), false, "r.io"), "{address}");
            assert!(!credentials.are_for(&url("https://r.io/v2"), true, "r.io"), "{address}");
        }
        let hub = read(&user("https://index.docker.io/v1/"));
        assert!(hub.are_for(&url("https://registry-1.docker.io/v2"), true, "docker.io"));
        assert!(
            hub.are_for(&url("https://hub-proxy.io/v2"), true, "docker.io"),
            "server = stands for docker.io"
        );
        assert!(!hub.are_for(&url("https://hub-proxy.io/v2"), false, "docker.io"));
        assert!(!read(&user("r.io:5000")).are_for(&url("https://r.io/v2"), true, "r.io"));
    }

    #[test]
    fn the_auth_field_is_decoded_strictly() {
        let with = |auth: &str| Auth { auth: auth.into(), ..Auth::default() };
        let expected = Login::Basic { username: "ann".into(), password: "p:w".into() };
        assert_eq!(read(&with("YW5uOnA6dw==")).login, expected);
        assert_eq!(read(&with("YW5uOnA6dw")).login, expected);
        assert_eq!(Credentials::from_auth(&with("%%%")), Err(InvalidAuth::Encoding));
        assert_eq!(Credentials::from_auth(&with("YW5u")), Err(InvalidAuth::NoColon));
        assert_eq!(Credentials::from_auth(&Auth::default()), Ok(None));
        let token = Auth { registry_token: "a\nb".into(), ..Auth::default() };
        assert_eq!(Credentials::from_auth(&token), Err(InvalidAuth::Characters));
    }

    #[test]
    fn fingerprints_differ_where_the_credentials_do() {
        let mut seen = std::collections::HashSet::new();
        for auth in [
            user(""),
            user("r.io"),
            Auth { password: "pw2".into(), ..user("") },
            Auth { username: "an".into(), password: "npw".into(), ..Auth::default() },
            Auth { identity_token: "pw".into(), ..Auth::default() },
            Auth { registry_token: "pw".into(), ..Auth::default() },
        ] {
            let credentials = read(&auth);
            assert!(!credentials.fingerprint().contains("pw"));
            assert!(seen.insert(credentials.fingerprint()), "{auth:?}");
            assert!(!format!("{auth:?}{credentials:?}").contains("pw"));
        }
    }
}
