//! Who a process runs as: USER strings resolved against the image's own /etc/passwd and /etc/group.

use std::os::fd::AsFd;

use crate::inroot::InRootError;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// The groups that /etc/group lists the user in, sorted, without `gid` itself.
    pub groups: Vec<u32>,
    /// Home folder; `/` when the image does not say.
    pub home: String,
    /// The user's name, when the image knows it.
    pub name: Option<String>,
}

/// Why a USER string names nobody.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("user {name:?} is not in the image's /etc/passwd")]
    UnknownUser { name: String },
    #[error("group {name:?} is not in the image's /etc/group")]
    UnknownGroup { name: String },
    #[error("{what} {text:?} is out of range: ids go from 0 to 4294967294")]
    OutOfRange { what: &'static str, text: String },
    #[error("user {text:?} is malformed: expected USER, UID, USER:GROUP or UID:GID")]
    Malformed { text: String },
    #[error(transparent)]
    Image(#[from] InRootError),
}

/// Resolves `name`, `uid`, `name:group`, `uid:gid` and mixes of them; empty means root.
///
/// # Errors
/// [`UserError`] naming the user or group.
pub fn resolve(_root: impl AsFd, user: &str) -> Result<User, UserError> {
    Err(UserError::Malformed { text: user.to_owned() })
}
