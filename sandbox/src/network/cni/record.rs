use std::path::PathBuf;

use crisp_executor::ids::PodId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::NetworkList;
use crate::network::record::Record;
use crate::network::{Attachment, INTERFACE, PortMapping};

/// A pod's CNI networks, with everything that a detach needs. Written before the first plugin runs, and again
/// with the results.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CniRecord {
    pub pod: PodId,
    pub name: String,
    pub namespace: String,
    pub netns: PathBuf,
    pub ports: Vec<PortMapping>,
    /// Records of older servers only have this network.
    #[serde(flatten)]
    pub first: Joined,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<Joined>,
}

/// A network that the pod has joined or is joining.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Joined {
    /// `CNI_ARGS`.
    pub args: String,
    #[serde(default = "first_interface")]
    pub interface: String,
    pub network: NetworkList,
    /// The same for ADD and DEL.
    pub capabilities: Map<String, Value>,
    /// For `args.cni` of the plugins' configurations.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub cni_args: Map<String, Value>,
    /// Set when every ADD succeeded.
    pub result: Option<Value>,
    pub attachment: Option<Attachment>,
}

fn first_interface() -> String {
    INTERFACE.to_owned()
}

impl CniRecord {
    /// In the order in which they are joined.
    pub(super) fn joined(&self) -> impl DoubleEndedIterator<Item = &Joined> {
        std::iter::once(&self.first).chain(&self.more)
    }

    pub(super) fn joined_mut(&mut self) -> impl Iterator<Item = &mut Joined> {
        std::iter::once(&mut self.first).chain(&mut self.more)
    }
}

impl crisp_operation::record::Record for CniRecord {
    const KIND: &'static str = "record of a CNI attachment";
}

impl Record for CniRecord {
    fn pod(&self) -> &PodId {
        &self.pod
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_servers_that_knew_one_network_are_read() {
        let pod = PodId::random();
        let old = serde_json::json!({
            "pod": pod, "name": "web", "namespace": "default", "args": "IgnoreUnknown=1", "netns": "/run/netns/x",
            "network": {"path": "/etc/cni/net.d/10.conf", "name": "a", "version": "1.0.0", "disable_gc": false,
                        "plugins": [{"kind": "x", "config": {"type": "x"}}]},
            "capabilities": {}, "ports": [], "result": null, "attachment": null,
        });
        let record: CniRecord = serde_json::from_value(old).unwrap();
        assert_eq!((record.first.interface.as_str(), record.joined().count()), ("eth0", 1));
        assert_eq!(record.first.network.name, "a");
        let written = serde_json::to_value(&record).unwrap();
        assert_eq!(written["network"]["name"], "a");
        assert!(written.get("more").is_none(), "an older server reads it");
    }
}
