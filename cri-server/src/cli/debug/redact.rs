//! Removes values that may be secrets from documents and texts.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// Stands in place of a removed value.
const REDACTED: &str = "(redacted)";
/// Maps whose values are removed: kubectl keeps whole manifests in annotations, with their environment.
const MAPS: [&str; 3] = ["annotations", "env", "envs"];
/// Values are removed when the field's name contains one of these.
const FIELDS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "auth",
    "apikey",
    "privatekey",
    "credential",
    "cookie",
    "bearer",
];

/// Forms of a secret within a text, such as the last output of a program: a login in a URL, an HTTP credential, a
/// variable or field with its value, a private key. The first group, if there is one, stays.
const FORMS: [&str; 4] = [
    r"(://)[^/@\s]+@",
    r"(?i)\b((?:bearer|basic) )[a-z0-9._~+/=-]{8,}",
    r#"(?i)((?:password|passwd|passphrase|token|secret|api[_-]?key|credentials?)["']?[=:])("[^"]*"|'[^']*'|[^\s,;&]+)"#,
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
];

static PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| FORMS.iter().filter_map(|form| Regex::new(form).ok()).collect());

/// Removes what has the form of a secret from a text.
pub fn redact_text(text: &str) -> Cow<'_, str> {
    PATTERNS.iter().fold(Cow::Borrowed(text), |text, pattern| match pattern.is_match(&text) {
        true => Cow::Owned(pattern.replace_all(&text, format!("${{1}}{REDACTED}")).into_owned()),
        false => text,
    })
}

/// Removes values by the names of their fields, and secrets within texts. Keys stay: they show which values existed.
pub fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                let name = name.to_ascii_lowercase().replace(['-', '_'], "");
                let is_secret = FIELDS.iter().any(|field| name.contains(field));
                if is_secret || MAPS.contains(&name.as_str()) { take_out(value) } else { redact(value) }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::String(text) => {
            if let Cow::Owned(redacted) = redact_text(text) {
                *text = redacted;
            }
        }
        _ => {}
    }
}

/// Removes all texts and numbers in it.
fn take_out(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(take_out),
        Value::Array(values) => values.iter_mut().for_each(take_out),
        Value::String(text) if text.is_empty() => {}
        Value::String(_) | Value::Number(_) => *value = Value::String(REDACTED.to_owned()),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_a_secret_is_taken_out_and_names_stay() {
        let mut value = json!({
            "name": "web",
            "annotations": { "last-applied": "hunter2", "none": "" },
            "list": [{ "identity_token": "hunter2", "env": [{ "key": "A", "value": "hunter2" }] }],
            "labels": { "app": "web", "db-password": "hunter2" },
        });
        redact(&mut value);
        let text = value.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(value["name"], "web");
        assert_eq!(value["labels"]["app"], "web");
        assert_eq!(value["annotations"], json!({ "last-applied": REDACTED, "none": "" }));
    }

    #[test]
    fn secrets_within_texts_are_taken_out_and_the_rest_stays() {
        assert_eq!(PATTERNS.len(), FORMS.len());
        for text in [
            "proxy http://user:hunter2@proxy.test:3128 refused",
            "Authorization: Bearer hunter2-hunter2",
            "header Basic aHVudGVyMi1odW50ZXIy sent",
            "connect with DB_PASSWORD=hunter2",
            r#"{"token":"hunter2 hunter2","user":"a"}"#,
            "GET /v2/?access_token=hunter2&scope=x",
            "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY----- loaded",
            "-----BEGIN PRIVATE KEY-----\nhunter2",
        ] {
            let redacted = redact_text(text);
            assert!(!redacted.contains("hunter2") && !redacted.contains("aHVudGVy"), "{redacted}");
            assert!(redacted.contains(REDACTED));
        }
        assert_eq!(redact_text("http://u:hunter2@host/v2/ failed"), "http://(redacted)host/v2/ failed");
        for text in [
            "https://registry.test/v2/a@sha256:0123",
            "fetch the token: 401 from auth.test",
            "basic checks passed",
        ] {
            assert!(matches!(redact_text(text), Cow::Borrowed(_)), "{text}");
        }
        let mut value = json!({ "message": ["failed: --password=hunter2"] });
        redact(&mut value);
        assert_eq!(value, json!({ "message": ["failed: --password=(redacted)"] }));
    }
}
