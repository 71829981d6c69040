//! Values as YAML in block form; strings are quoted where they could be read as another type.

use std::fmt::Write as _;

use serde_json::Value;

/// The document with a final newline.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => write_value(value, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write_value(value, 0, &mut out),
        other => {
            let _ = writeln!(out, "{}", scalar(other));
        }
    }
    out
}

/// The lines of a map or list that is not empty.
fn write_value(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let _ = write!(out, "{:indent$}{}:", "", string(key));
                // Lists are indented like their key, as Kubernetes tools write them.
                let deeper = indent + if value.is_array() { 0 } else { 2 };
                write_after(value, deeper, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                let _ = write!(out, "{:indent$}-", "");
                write_item(item, indent, out);
            }
        }
        _ => {}
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn write_after(value: &Value, indent: usize, out: &mut String) {
    if is_block(value) {
        out.push('\n');
        write_value(value, indent, out);
    } else {
        let _ = writeln!(out, " {}", scalar(value));
    }
}

fn write_item(item: &Value, indent: usize, out: &mut String) {
    if !is_block(item) {
        let _ = writeln!(out, " {}", scalar(item));
        return;
    }
    let mut inner = String::new();
    write_value(item, indent + 2, &mut inner);
    // The first line follows the dash.
    let _ = write!(out, " {}", inner.trim_start_matches(' '));
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// Plain where that is safe, else quoted as in JSON, which is valid YAML.
fn string(text: &str) -> String {
    let first = |c: char| c.is_ascii_alphabetic() || c == '/' || c == '_';
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.');
    let is_word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
    );
    if text.starts_with(first) && text.chars().all(inner) && !is_word {
        return text.to_owned();
    }
    Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_read_back_as_they_were() {
        let values = [
            json!({"a": {"b": [1, {"c": "x", "d": []}, [true, [null]]], "e": {}}, "yes": "no", "n": "1e3"}),
            json!([]),
            json!([{"k: v": "a\nb"}, "- x", "#", "", " s", "2024-01-01", "~", "0x10", "a: b"]),
            json!("text"),
            json!({"deep": [[[{"x": [{"y": 1}]}]]]}),
        ];
        for value in values {
            let text = document(&value);
            let read: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read, value, "{text}");
        }
    }

    #[test]
    fn the_form_is_that_of_manifests() {
        let text = document(&json!({"items": [{"count": 1, "id": "a"}], "kind": "List"}));
        assert_eq!(text, "items:\n- count: 1\n  id: a\nkind: List\n");
    }
}
