//! The server's own folders, which are for root only.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};

use super::layout;

/// Makes a folder that only root can enter. An existing folder is changed, if it is empty or was a server's. One that a
/// server's group can go through keeps that, as the server may run: see [`close_to_groups`].
///
/// # Errors
/// It cannot be made, or has other content: then other users may need to enter it, as with `/run`.
pub fn make_private(path: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot make the folder {}", path.display());
    // Parent folders are not the server's own: they get the usual permissions.
    if let Some(above) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(above).with_context(failed)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other.with_context(failed)?,
    }
    let mode = fs::metadata(path).with_context(failed)?.permissions().mode();
    if mode & 0o067 == 0 && (mode & 0o010 == 0 || is_for_a_server(path).with_context(failed)?) {
        return Ok(());
    }
    if !is_for_a_server(path).with_context(failed)? {
        bail!(
            "{path} has other things in it, and the folder of a server is for root alone: choose a folder of its own, such as {path}/crisp",
            path = path.display()
        );
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).with_context(failed)
}

/// Takes from groups the right to go through a folder of this server, which holds its lock.
///
/// # Errors
/// The kernel's.
pub fn close_to_groups(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o010 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A new ext4 file system has this folder in its root.
const LOST_AND_FOUND: &str = "lost+found";

fn is_for_a_server(path: &Path) -> io::Result<bool> {
    if layout::lock(path).exists() {
        return Ok(true);
    }
    for entry in fs::read_dir(path)? {
        if entry?.file_name() != LOST_AND_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
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
        fs::write(layout::lock(&path), "").unwrap();
        make_private(&path).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = make_private(&folder.path().join("file")).unwrap_err();
        assert!(format!("{error:#}").contains("file"), "{error:#}");
    }
    #[test]
    fn a_folder_of_the_host_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("sshd")).unwrap();
        let error = format!("{:#}", make_private(folder.path()).unwrap_err());
        assert!(error.contains("choose a folder of its own"), "{error}");
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
