//! Objects of the API server, as the checks need them.

use serde_json::Value;

use crate::Result;
use crate::kubernetes::Kubectl;

/// A pod and its containers.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub name: String,
    pub namespace: String,
    pub node: String,
    pub ip: String,
    pub host_network: bool,
    pub ready: bool,
    pub restarts: i64,
    /// Ids, without their scheme.
    pub containers: Vec<String>,
    /// Whether it has a port of its node.
    pub host_port: bool,
}

/// The pods of all namespaces, or of those with this label.
pub(super) fn pods(kubectl: &Kubectl, selector: Option<&str>) -> Result<Vec<Pod>> {
    let mut words = vec!["get", "pods", "-A", "-o", "json"];
    words.extend(selector.into_iter().flat_map(|selector| ["-l", selector]));
    let list: Value = serde_json::from_str(&kubectl.run(&words)?)?;
    Ok(list["items"].as_array().into_iter().flatten().map(pod).collect())
}

fn pod(value: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (spec, status) = (&value["spec"], &value["status"]);
    let containers = || status["containerStatuses"].as_array().into_iter().flatten();
    let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    let has_port = |container: &Value| !container["ports"][0]["hostPort"].is_null();
    Pod {
        name: text(&value["metadata"]["name"]),
        namespace: text(&value["metadata"]["namespace"]),
        node: text(&spec["nodeName"]),
        ip: text(&status["podIP"]),
        host_network: spec["hostNetwork"] == true,
        ready: status["conditions"].as_array().into_iter().flatten().any(is_ready),
        restarts: containers().filter_map(|container| container["restartCount"].as_i64()).sum(),
        containers: containers()
            .map(|container| text(&container["containerID"]))
            .map(|id| id.rsplit('/').next().unwrap_or_default().to_owned())
            .collect(),
        host_port: spec["hostNetwork"] != true
            && spec["containers"].as_array().into_iter().flatten().any(has_port),
    }
}

/// The status and the message of a node's condition.
pub(super) fn condition(kubectl: &Kubectl, node: &str, name: &str) -> Result<(String, String)> {
    let object: Value = serde_json::from_str(&kubectl.run(&["get", "node", node, "-o", "json"])?)?;
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == name);
    let found = found.ok_or_else(|| format!("{node} has no condition {name}"))?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("message")))
}
