//! Ways into the parsers, for fuzz targets. Every function must return for any input.

use std::collections::BTreeMap;

use crate::network::{NETWORKS_ANNOTATION, interfaces};

/// Reads what a CNI plugin's ADD printed.
pub fn cni_result(bytes: &[u8]) {
    crate::network::read_cni_result(bytes);
}

/// Reads and answers what a pod asks the gateway of its network.
pub fn dns(bytes: &[u8]) {
    crate::network::answer_query(bytes);
}

/// Reads the annotation that names a pod's networks.
pub fn networks(text: &str) {
    let annotations = BTreeMap::from([(NETWORKS_ANNOTATION.to_owned(), text.to_owned())]);
    assert!(!interfaces(&annotations).is_empty());
}
