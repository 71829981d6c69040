//! A pod whose record this server cannot use: one of another release that has fields of its own, or a damaged one. It may
//! run. So it is listed, keeps its name, and can be taken down.

use std::path::Path;

use serde_json::Value;

use super::super::pod_end;
use super::record;
use crate::server::{Server, layout};

/// What is known of it.
#[derive(Debug, Clone)]
pub struct Unreadable {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// Why it cannot be used.
    pub why: String,
}

impl Unreadable {
    /// Of the record of that uid; what is in it says the name, if it is JSON at all.
    pub fn new(pods: &Path, uid: &str, why: String) -> Self {
        let path = layout::supervised_record(pods, uid);
        let value: Value = std::fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let metadata = &value["document"]["metadata"];
        let text = |value: &Value, or: &str| value.as_str().unwrap_or(or).to_owned();
        Self {
            uid: uid.to_owned(),
            namespace: text(&metadata["namespace"], "default"),
            name: text(&metadata["name"], uid),
            why,
        }
    }

    /// `NAMESPACE/NAME`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Stops and removes it. Its manifest says nothing of a grace period, since it cannot be read.
    ///
    /// # Errors
    /// The runtime's, and the file system's; it can be taken down once more.
    pub async fn take_down(&self, server: &Server, root: &Path) -> anyhow::Result<()> {
        pod_end::remove_of(server, &self.uid, &layout::supervised_pod(root, &self.uid)).await?;
        record::remove(&layout::supervised_pods(root), &self.uid)
    }
}
