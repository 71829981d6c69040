//! Ids of containers, chosen by the callers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An id is part of the names of a folder and a cgroup, which have at most 255 bytes.
const LONGEST: usize = 240;

/// Letters, digits, `_`, `+`, `-` and `.`, as in runc. A value of this type can be used as the name of a
/// folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OciId(String);

/// The error for a text that is not a valid id.
#[derive(Debug, thiserror::Error)]
#[error("container id {shown:?}: {reason}")]
pub struct InvalidOciId {
    shown: String,
    reason: String,
}

impl OciId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OciId {
    type Err = InvalidOciId;

    fn from_str(text: &str) -> Result<Self, InvalidOciId> {
        let refuse = |reason: String| Err(InvalidOciId { shown: text.chars().take(80).collect(), reason });
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        match text {
            "" => refuse("it is empty".to_owned()),
            "." | ".." => refuse("it is the name of a folder that exists everywhere".to_owned()),
            long if long.len() > LONGEST => refuse(format!("it has {} bytes, {LONGEST} at most", long.len())),
            other => match other.chars().find(|c| !is_allowed(*c)) {
                Some(c) => refuse(format!("{c:?} is not a letter, a digit or one of _ + - .")),
                None => Ok(Self(text.to_owned())),
            },
        }
    }
}

impl TryFrom<String> for OciId {
    type Error = InvalidOciId;

    fn try_from(text: String) -> Result<Self, InvalidOciId> {
        text.parse()
    }
}

impl From<OciId> for String {
    fn from(id: OciId) -> String {
        id.0
    }
}

impl fmt::Display for OciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_folders() {
        for text in ["a", "web-1.2_x+y", "..a", &"x".repeat(240)] {
            assert_eq!(text.parse::<OciId>().unwrap().as_str(), text);
        }
        for text in ["", ".", "..", "../x", "a/b", "a b", "a\n", "ä", &"x".repeat(241), &"x".repeat(1025)] {
            assert!(text.parse::<OciId>().is_err(), "{text:?}");
        }
    }
}
