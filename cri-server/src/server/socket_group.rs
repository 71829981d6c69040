//! Lets the members of a group use the server's socket, which without this only root can.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

const GROUPS: &str = "/etc/group";

/// The reason why a group cannot use the socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketGroupError {
    /// No such group.
    #[error("listen-group: there is no group {name:?} in {GROUPS}; make it, or give the number of a group")]
    Unknown {
        /// The group as it was requested.
        name: String,
    },
    /// An error of the kernel.
    #[error("listen-group: {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// A group of the host, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketGroup(u32);

impl SocketGroup {
    /// The group with this name in the host's /etc/group, or with this number.
    ///
    /// # Errors
    /// [`SocketGroupError`].
    pub fn find(name: &str) -> Result<Self, SocketGroupError> {
        if let Ok(number) = name.parse() {
            return Ok(Self(number));
        }
        let groups =
            fs::read(GROUPS).map_err(|source| SocketGroupError::Io { path: GROUPS.into(), source })?;
        let number = number_of(name, &String::from_utf8_lossy(&groups));
        number.map(Self).ok_or_else(|| SocketGroupError::Unknown { name: name.to_owned() })
    }

    /// Lets the group's members connect to the socket. `private`: folders that only root can enter; the members can go
    /// through them on the way to the socket, but not list them. If another folder is in the way, that is logged.
    ///
    /// # Errors
    /// [`SocketGroupError::Io`].
    pub fn admit(self, socket: &Path, private: &[&Path]) -> Result<(), SocketGroupError> {
        self.set(socket, 0o660)?;
        let real = |path: &Path| {
            path.canonicalize().map_err(|source| SocketGroupError::Io { path: path.to_owned(), source })
        };
        let Some(parent) = socket.parent() else { return Ok(()) };
        let parent = real(parent)?;
        let private = private.iter().map(|path| real(path)).collect::<Result<Vec<_>, _>>()?;
        for folder in parent.ancestors() {
            if private.iter().any(|private| folder.starts_with(private)) {
                self.set(folder, 0o710)?;
            } else if !self.may_enter(folder) {
                let folder = folder.display();
                tracing::warn!(%folder, "listen-group: its members cannot go through this folder to the socket");
            }
        }
        Ok(())
    }

    fn may_enter(self, folder: &Path) -> bool {
        let there = fs::metadata(folder);
        there.is_ok_and(|there| {
            there.mode() & 0o001 != 0 || (there.gid() == self.0 && there.mode() & 0o010 != 0)
        })
    }

    /// The group first: before, the file may belong to a group that is not meant.
    fn set(self, path: &Path, mode: u32) -> Result<(), SocketGroupError> {
        chown(path, None, Some(self.0))
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
            .map_err(|source| SocketGroupError::Io { path: path.to_owned(), source })
    }
}

/// Lines of `NAME:PASSWORD:GID:MEMBERS`, see group(5).
fn number_of(name: &str, groups: &str) -> Option<u32> {
    let mut lines = groups.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)?.parse().ok()).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name_and_number() {
        let groups = "root:x:0:\nbroken\nops:x:1234:ann,bob\nopsy:x:5:\nbad:x:y:\n";
        for (name, number) in
            [("root", Some(0)), ("ops", Some(1234)), ("op", None), ("bad", None), ("broken", None)]
        {
            assert_eq!(number_of(name, groups), number, "{name}");
        }
        assert_eq!(SocketGroup::find("root").unwrap(), SocketGroup(0));
        assert_eq!(SocketGroup::find("4711").unwrap(), SocketGroup(4711));
        let error = SocketGroup::find("no-such-group").unwrap_err().to_string();
        assert!(error.contains("listen-group") && error.contains("no-such-group"), "{error}");
    }

    #[test]
    fn a_group_gets_the_socket_and_goes_through_its_private_folder() {
        crisp_skip::needs!();
        let folder = tempfile::tempdir().unwrap();
        let (private, other) = (folder.path().join("state"), folder.path().join("other"));
        for folder in [&private, &other] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
            fs::write(folder.join("socket"), "").unwrap();
            SocketGroup(4711).admit(&folder.join("socket"), &[&private]).unwrap();
            let socket = fs::metadata(folder.join("socket")).unwrap();
            assert_eq!((socket.gid(), socket.mode() & 0o7777), (4711, 0o660));
        }
        let of = |folder| fs::metadata(folder).map(|there| (there.gid(), there.mode() & 0o7777)).unwrap();
        assert_eq!((of(&private), of(&other)), ((4711, 0o710), (0, 0o700)));
    }
}
