//! Reads `WWW-Authenticate` (RFC 9110, section 11.6.1): which proof a registry wants.

use http::{HeaderMap, header};

/// What a registry asks for with a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token from this token server.
    Bearer { realm: String, service: Option<String>, scope: Option<String>, error: Option<String> },
    /// User name and password.
    Basic,
}

impl Challenge {
    /// The best challenge among a response's headers: a token before a password.
    pub(crate) fn best(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::WWW_AUTHENTICATE);
        let all: Vec<_> = values.iter().filter_map(|v| v.to_str().ok()).flat_map(parse).collect();
        all.iter().find(|c| matches!(c, Self::Bearer { .. })).or_else(|| all.first()).cloned()
    }
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(['=', ' ', '\t', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.trim_start().strip_prefix('=') {
            let (value, after) = value_of(value.trim_start());
            parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
            continue;
        }
        challenges.extend(finish(&scheme, &parameters));
        if word.is_empty() {
            return challenges;
        }
        scheme = word.to_ascii_lowercase();
        parameters.clear();
        rest = after;
    }
}

/// A quoted string with backslash escapes, or a bare token.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (value, "")
}

fn finish(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |key: &str| parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm").filter(|r| !r.is_empty())?,
            service: get("service"),
            scope: get("scope"),
            error: get("error"),
        }),
        _ => None,
    }
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
        Some(Challenge::Bearer { realm: realm.into(), service: own(service), scope: own(scope), error: None })
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
            best(&[r#"bearer realm=https://x/t , service = "a \"b\"""#]),
            bearer("https://x/t", Some("a \"b\""), None)
        );
    }

    #[test]
    fn a_token_is_preferred_wherever_it_stands() {
        let want = bearer("https://x/t", None, None);
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
