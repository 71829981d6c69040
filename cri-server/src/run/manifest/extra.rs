//! Settings that exist in the CRI but not in a Pod: the annotation `crisp/container`, which `crisp run IMAGE`
//! writes. It applies to all containers of the pod.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Map;
use super::strict_object::Object;

/// The annotation's key.
pub const EXTRA: &str = "crisp/container";

/// Its value as JSON. For a missing value the Pod's fields apply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Extra {
    /// A user of the image by name, if `runAsUser` is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Devices by their CDI names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cdi_devices: Vec<String>,
    /// Microseconds in each `cpu_period`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// Bytes of memory and swap together; -1 for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap: Option<i64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<u64>,
    /// 0 or less for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i64>,
    /// Mount points whose volumes, while they are empty, get the image's files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copy_up: Vec<String>,
    /// Soft and hard limits of processes by name; the largest number is no limit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, (u64, u64)>,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Device {
    pub host: String,
    pub container: String,
    /// A subset of `rwm`.
    pub permissions: String,
}

/// Reads it from a Pod's annotations.
pub fn read(metadata: &Object<'_>, annotations: &Map) -> Extra {
    let Some(text) = annotations.get(EXTRA) else { return Extra::default() };
    // A JSON list would be accepted as the fields in their order.
    let fields = serde_json::from_str::<serde_json::Map<_, _>>(text);
    fields.and_then(|fields| serde_json::from_value(fields.into())).unwrap_or_else(|error| {
        metadata.refuse("annotations", format_args!("{EXTRA}: {error}"));
        Extra::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn pod(annotation: &str) -> Result<Extra, String> {
        let document = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "annotations": {EXTRA: annotation}},
            "spec": {"containers": [{"name": "a", "image": "b"}]},
        });
        let manifests = parse("p", &document.to_string()).map_err(|error| error.to_string())?;
        Ok(manifests.pods[0].pod.extra.clone())
    }

    #[test]
    fn it_is_read_strictly() {
        let device =
            Device { host: "/dev/fuse".into(), container: "/dev/f".into(), permissions: "rw".into() };
        let extra = Extra { devices: vec![device], pids_limit: Some(-1), ..Extra::default() };
        let text = serde_json::to_string(&extra).unwrap();
        assert!(!text.contains("user"), "{text}");
        assert_eq!(pod(&text).unwrap(), extra);
        for text in
            ["", "[]", "{\"pids\": 1}", "{\"pids-limit\": \"x\"}", "{\"devices\": [{\"host\": \"/dev/x\"}]}"]
        {
            let error = pod(text).unwrap_err();
            assert!(error.contains("metadata.annotations: crisp/container"), "{error}");
        }
    }
}
