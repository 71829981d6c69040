//! The path of a cgroup, as the kernel and CRI clients write it: absolute below the hierarchy's root.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reason why a text is not the path of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cgroup path {text:?} is refused: {reason}")]
pub struct InvalidCgroupPath {
    text: String,
    reason: &'static str,
}

/// `/kubepods/burstable/pod123/abc`: absolute, no `.` or `..`, no empty part, never the root itself.
///
/// A value of this type can be joined to a hierarchy's mount point without leaving it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

impl CgroupPath {
    /// The only way to make one from outside text.
    ///
    /// # Errors
    /// [`InvalidCgroupPath`] with the rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidCgroupPath> {
        let refuse = |reason| Err(InvalidCgroupPath { text: text.chars().take(256).collect(), reason });
        let Some(inner) = text.strip_prefix('/') else {
            return refuse("it must start with /");
        };
        if inner.is_empty() {
            return refuse("it is the root of the hierarchy, which cannot be used");
        }
        if text.len() > 4000 {
            return refuse("it is longer than 4000 bytes");
        }
        for part in inner.split('/') {
            if let Some(reason) = part_problem(part) {
                return refuse(reason);
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The cgroup `name` directly below this one.
    ///
    /// # Errors
    /// [`InvalidCgroupPath`] when `name` is not one valid path component.
    pub fn child(&self, name: &str) -> Result<Self, InvalidCgroupPath> {
        match part_problem(name) {
            Some(reason) => Err(InvalidCgroupPath {
                text: format!("{self}/{}", name.chars().take(256).collect::<String>()),
                reason,
            }),
            None => Self::parse(&format!("{}/{name}", self.0)),
        }
    }

    /// The path with its leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path below the hierarchy's mount point: without the leading slash.
    #[must_use]
    pub fn relative(&self) -> &str {
        &self.0[1..]
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The parent cgroup; None for one directly below the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        (!parent.is_empty()).then(|| Self(parent.to_owned()))
    }
}

fn part_problem(part: &str) -> Option<&'static str> {
    match part {
        "" => Some("it has an empty part"),
        "." | ".." => Some("it has a part . or .."),
        p if p.len() > 255 => Some("it has a part longer than 255 bytes"),
        p if p.contains('/') => Some("a part cannot hold a slash"),
        p if p.bytes().any(|b| b == 0 || b == b'\n') => Some("it has a NUL or a line break"),
        _ => None,
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = InvalidCgroupPath;
    fn try_from(text: String) -> Result<Self, InvalidCgroupPath> {
        Self::parse(&text)
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> String {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_hierarchy_are_refused() {
        for text in [
            "",
            "/",
            "a",
            "a/b",
            "/a/../b",
            "/a/.",
            "//a",
            "/a//b",
            "/a/",
            "/a\nb",
            "/a\0",
            &format!("/{}", "x".repeat(256)),
        ] {
            assert!(CgroupPath::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn parts_are_found() {
        let path = CgroupPath::parse("/kubepods/pod1/abc").unwrap();
        assert_eq!((path.name(), path.relative()), ("abc", "kubepods/pod1/abc"));
        assert_eq!(path.parent().unwrap().as_str(), "/kubepods/pod1");
        assert_eq!(CgroupPath::parse("/a").unwrap().parent(), None);
        assert_eq!(path.child("x").unwrap().as_str(), "/kubepods/pod1/abc/x");
        for bad in ["..", "a/b", "", "."] {
            assert!(path.child(bad).is_err(), "{bad:?}");
        }
    }
}
