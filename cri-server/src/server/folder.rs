//! The server's own folders, which are for root only.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;

/// Makes a folder that only root may enter, or changes an existing one to that.
///
/// # Errors
/// It cannot be made, or is not ours to change.
pub fn make_private(path: &Path) -> anyhow::Result<()> {
    let make = || -> io::Result<()> {
        // Folders above it are not ours: they get what is usual.
        if let Some(above) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(above)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other?,
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    };
    make().with_context(|| format!("cannot make the folder {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_even_if_it_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        for _ in 0..2 {
            make_private(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(folder.path().join("file"), "").unwrap();
        let error = make_private(&folder.path().join("file")).unwrap_err();
        assert!(format!("{error:#}").contains("file"), "{error:#}");
    }
}
