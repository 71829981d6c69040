//! Parses `WWW-Authenticate` (RFC 9110, section 11.6.1): the kind of login that a registry requires.

use http::{HeaderMap, header};
use http_auth::{ChallengeParser, ChallengeRef};

/// The kind of login that a registry requires with a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token from this token server.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// User name and password.
    Basic,
}

impl Challenge {
    /// The best challenge in a response's headers: a token is preferred to a password.
    pub(crate) fn best(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::WWW_AUTHENTICATE);
        let all: Vec<_> = values.iter().filter_map(|v| v.to_str().ok()).flat_map(parse).collect();
        all.iter().find(|c| matches!(c, Self::Bearer { .. })).or_else(|| all.first()).cloned()
    }
}

/// The supported challenges of one header, up to the first error in it.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    ChallengeParser::new(header).map_while(Result::ok).filter_map(supported).collect()
}

fn supported(challenge: ChallengeRef<'_>) -> Option<Challenge> {
    let get = |key: &str| {
        let value = challenge.params.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        value.map(|(_, value)| value.to_unescaped())
    };
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let realm = get("realm").filter(|realm| !realm.is_empty())?;
    Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::best(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |t: Option<&str>| t.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.into(), service: own(service), scope: own(scope) })
    }

    #[test]
    fn what_registries_send_is_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let want = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:a/b:pull,push"),
        );
        assert_eq!(best(&[hub]), want);
        assert_eq!(best(&[r#"Basic realm="Registry Realm""#]), Some(Challenge::Basic));
        assert_eq!(best(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(
            best(&[r#"bearer realm="https://x/t" , service = "a \"b\"""#]),
            bearer("https://x/t", Some("a \"b\""), None)
        );
    }

    #[test]
    fn a_token_is_preferred_wherever_it_stands() {
        let want = bearer("https://x/t", None, None);
        assert_eq!(best(&[r#"Bearer realm="https://x/t","#]), want, "a comma too many");
        assert_eq!(best(&[r#"Basic realm="x", Bearer realm="https://x/t""#]), want);
        assert_eq!(best(&["Basic realm=x", r#"Bearer realm="https://x/t""#]), want);
        assert_eq!(best(&[r#"Negotiate, Bearer realm="https://x/t""#]), want);
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in
            ["", "Negotiate", "Bearer", "Bearer service=x", ",,,", "Bearer realm=\"\"", "Digest realm=\"x"]
        {
            assert_eq!(best(&[text]), None, "{text}");
        }
    }
}
