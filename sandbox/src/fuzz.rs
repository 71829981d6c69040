//! Ways into the parsers, for fuzz targets. Every function must return for any input.

/// Reads what a CNI plugin's ADD printed.
pub fn cni_result(bytes: &[u8]) {
    crate::network::read_cni_result(bytes);
}
