//! Paths in an archive.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use crate::CopyError;

/// The names in a path, without `.`; a slash at its beginning is ignored.
pub(crate) fn parts(path: &[u8]) -> Result<Vec<OsString>, CopyError> {
    let mut parts = Vec::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(CopyError::Escapes { entry: String::from_utf8_lossy(path).into_owned() });
            }
        }
    }
    Ok(parts)
}

pub(crate) fn shown(parts: &[OsString]) -> String {
    parts.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}
