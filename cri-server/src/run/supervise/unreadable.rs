//! A pod whose record this server cannot use: it is damaged, or another release wrote it with unknown fields.
//! The pod may run, so it is listed, keeps its name, and can be removed.

use std::path::Path;

use serde_json::Value;

use super::super::pod_end;
use super::record;
use crate::server::{Server, layout};

/// The known data of the pod.
#[derive(Debug, Clone)]
pub struct Unreadable {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// The reason why the record cannot be used.
    pub why: String,
}

impl Unreadable {
    /// From the record of that uid; its text has the name, if it is valid JSON.
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

    /// Stops and removes the pod without a grace period, because its manifest cannot be read.
    ///
    /// # Errors
    /// The runtime's or the file system's error; the call can be repeated.
    pub async fn take_down(&self, server: &Server, root: &Path) -> anyhow::Result<()> {
        pod_end::remove_of(server, &self.uid, &layout::supervised_pod(root, &self.uid)).await?;
        record::remove(&layout::supervised_pods(root), &self.uid)
    }
}
