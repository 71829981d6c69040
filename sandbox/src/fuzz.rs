//! Entry points to the parsers, for fuzz targets. Every function must return for any input.

use std::collections::BTreeMap;

use crate::network::{NETWORKS_ANNOTATION, interfaces};

/// Reads the output of a CNI plugin's ADD.
pub fn cni_result(bytes: &[u8]) {
    crate::network::read_cni_result(bytes);
}

/// Reads and answers a DNS query of a pod to its gateway.
pub fn dns(bytes: &[u8]) {
    crate::network::answer_query(bytes);
}

/// Reads the annotation that names a pod's networks.
pub fn networks(text: &str) {
    let annotations = BTreeMap::from([(NETWORKS_ANNOTATION.to_owned(), text.to_owned())]);
    assert!(!interfaces(&annotations).is_empty());
}
