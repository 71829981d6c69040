//! Removes values that may be secrets from a document.

use serde_json::Value;

/// Stands in place of a removed value.
const REDACTED: &str = "(redacted)";
/// Maps whose values are removed: kubectl keeps whole manifests in annotations, with their environment.
const MAPS: [&str; 3] = ["annotations", "env", "envs"];
/// Values are removed when the field's name contains one of these.
const FIELDS: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "auth",
    "apikey",
    "credential",
    "cookie",
    "bearer",
];

/// Keys stay: they show which values existed.
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
}
