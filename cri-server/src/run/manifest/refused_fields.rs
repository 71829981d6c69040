//! Fields of a manifest that are refused, each with its path and the reason.

use std::cell::RefCell;
use std::fmt::Display;

use serde_json::Value;

use super::nearest::nearest;

/// The problems of a manifest in the order in which they were found, and its fields without effect.
#[derive(Default)]
pub struct Problems {
    found: RefCell<Vec<String>>,
    without_effect: RefCell<Vec<String>>,
}

impl Problems {
    /// Adds a problem.
    pub fn add(&self, path: &str, message: impl Display) {
        let path = if path.is_empty() { "the manifest" } else { path };
        self.found.borrow_mut().push(format!("{path}: {message}"));
    }

    /// Takes all problems.
    pub fn take(&self) -> Vec<String> {
        self.found.take()
    }

    /// Takes the paths of fields that are accepted but have no effect.
    pub fn take_without_effect(&self) -> Vec<String> {
        self.without_effect.take()
    }

    /// Adds the path of a field that is accepted but has no effect.
    pub fn add_without_effect(&self, path: String) {
        self.without_effect.borrow_mut().push(path);
    }
}

/// The reason for a field of Kubernetes that is not supported.
pub fn not_supported() -> &'static str {
    "not supported by crisp run yet"
}

/// The reason for a field that does not exist, with the one that was probably meant.
pub fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("is no field here: is {near} meant?"),
        None => "is no field here".to_owned(),
    }
}

/// The type of a value. Errors name it instead of the value, which may be a secret.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
