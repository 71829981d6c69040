//! The session keyring of a container.
//!
//! Without one of its own, a container would inherit the session keyring of the server, with
//! whatever keys are in it, and share it with all other containers.

use std::ffi::CString;

use rustix::io::Errno;

use super::error::{At, Stage, StageError};
use crate::ids::ContainerId;
use crate::sys;

/// The permissions of a new keyring (all for its possessor; view, read and link for its user), and search for
/// its user: without it an exec could not join it by name.
const PERMISSIONS: u32 = 0x3f1b_0000;

/// Joins the session keyring of the container, which its first process makes. The name is that of
/// runc's, so that people and tools find it.
pub(crate) fn join(id: &ContainerId) -> Result<(), StageError> {
    let name = CString::new(format!("_ses.{id}")).unwrap_or_default();
    let key = match sys::join_session_keyring(Some(&name)) {
        Ok(key) => key,
        // A kernel without keys, or a seccomp filter around the runtime that forbids keyctl, and so
        // forbids it to the container too.
        Err(Errno::NOSYS | Errno::PERM) => return Ok(()),
        Err(errno @ Errno::DQUOT) => {
            let why =
                "of the container: the key quota of the user root is used up (kernel.keys.root_maxkeys)";
            return Err(StageError::explained(Stage::SessionKeyring, errno, why));
        }
        Err(errno) => return Err(StageError::new(Stage::SessionKeyring, errno, "of the container")),
    };
    sys::set_key_permissions(key, PERMISSIONS).at(Stage::SessionKeyring, "permissions")
}
