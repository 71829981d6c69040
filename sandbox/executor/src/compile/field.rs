//! Converts values of the spec for a plan; errors name their fields.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::CompileError;

pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> CompileError {
    CompileError::Invalid { field: field.into(), reason: reason.into() }
}

pub(super) fn unsupported(field: impl Into<String>, hint: &str) -> CompileError {
    let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
    CompileError::Unsupported { field: field.into(), hint }
}

/// Refuses a field that is not supported, if it is set (`there`).
pub(super) fn refuse(there: bool, field: &str, hint: &str) -> Result<(), CompileError> {
    if there { Err(unsupported(field, hint)) } else { Ok(()) }
}

pub(super) fn c_string(field: impl FnOnce() -> String, text: &[u8]) -> Result<CString, CompileError> {
    CString::new(text).map_err(|_| invalid(field(), "it contains a NUL byte"))
}

/// Converts an absolute path in the container, without `//`, `.` and a final slash. `..` is refused: its
/// meaning depends on the links before it.
pub(super) fn container_path(field: impl Fn() -> String, path: &Path) -> Result<CString, CompileError> {
    if path.as_os_str().is_empty() {
        return Err(invalid(field(), "empty"));
    }
    if !path.is_absolute() {
        return Err(invalid(field(), format!("{path:?} is not absolute")));
    }
    let mut clean = Vec::with_capacity(path.as_os_str().len());
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                clean.push(b'/');
                clean.extend_from_slice(name.as_bytes());
            }
            Component::ParentDir => return Err(invalid(field(), format!("{path:?} has a part .."))),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean.is_empty() {
        clean.push(b'/');
    }
    c_string(&field, &clean)
}

/// Converts `linux.maskedPaths` or `linux.readonlyPaths`.
pub(super) fn paths(field: &str, given: Option<&Vec<String>>) -> Result<Vec<CString>, CompileError> {
    let mut paths: Vec<CString> = Vec::new();
    for (index, path) in given.into_iter().flatten().enumerate() {
        let path = container_path(|| format!("{field}[{index}]"), Path::new(path))?;
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}
