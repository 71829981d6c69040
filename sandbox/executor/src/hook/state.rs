//! The state of a container as hooks get it, see runtime.md of the OCI runtime spec.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

/// The members that stay the same for the life of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub oci_version: String,
    pub id: String,
    /// The folder with config.json, whose `root.path` leads to the container's root in a pause.
    pub bundle: PathBuf,
    pub annotations: BTreeMap<String, String>,
}

impl State {
    /// `pid` 0: there is no process.
    #[must_use]
    pub fn value(&self, status: &str, pid: i32) -> Value {
        json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
            "annotations": self.annotations,
        })
    }

    /// The state for [`crate::plan::Hooks::state`].
    #[must_use]
    pub fn without_pid(&self, status: &str) -> Vec<u8> {
        let mut state = self.value(status, 0);
        state.as_object_mut().map(|members| members.remove("pid"));
        let mut text = state.to_string().into_bytes();
        text.pop();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_can_be_added_at_the_end() {
        let state = State {
            oci_version: "1.2.0".into(),
            id: "a".into(),
            bundle: "/b".into(),
            annotations: [("k".to_owned(), "v".to_owned())].into(),
        };
        let text = String::from_utf8(state.without_pid("created")).unwrap() + ",\"pid\":7}";
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), state.value("created", 7));
    }
}
