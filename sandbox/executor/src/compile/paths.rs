//! `linux.maskedPaths` and `linux.readonlyPaths`.

use std::ffi::CString;
use std::path::Path;

use super::CompileError;
use super::field::container_path;

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
