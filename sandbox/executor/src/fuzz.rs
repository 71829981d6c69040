//! Ways into the parsers, for fuzz targets. Every function must return for any input.

/// Reads a seccomp profile and compiles it.
pub fn seccomp(bytes: &[u8]) {
    crate::seccomp::read_and_compile(bytes);
}
