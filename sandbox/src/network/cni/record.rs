use std::path::PathBuf;

use crisp_executor::id::PodId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::NetworkList;
use crate::network::record::Record;
use crate::network::{Attachment, PortMapping};

/// One pod's attachment, with all that taking it away needs. Written before the first plugin runs, and
/// again with the result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CniRecord {
    pub pod: PodId,
    pub name: String,
    pub namespace: String,
    /// `CNI_ARGS`.
    pub args: String,
    pub netns: PathBuf,
    pub network: NetworkList,
    /// The same for ADD and DEL.
    pub capabilities: Map<String, Value>,
    pub ports: Vec<PortMapping>,
    /// Set when every ADD succeeded.
    pub result: Option<Value>,
    pub attachment: Option<Attachment>,
}

impl crisp_operation::record::Record for CniRecord {
    const KIND: &'static str = "record of a CNI attachment";
}

impl Record for CniRecord {
    fn pod(&self) -> &PodId {
        &self.pod
    }
}
