//! The address of the gRPC socket.

use std::fmt;
use std::path::{Path, PathBuf};

/// The longest path that fits into a socket address, see unix(7).
const MAX_PATH: usize = 107;

/// A unix socket by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress(PathBuf);

impl ListenAddress {
    /// Parses `unix:///path`; an absolute path alone is accepted too.
    ///
    /// # Errors
    /// The reason why it is not valid, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if !path.starts_with('/') {
            return Err(format!("{text:?} is not a unix socket: expected unix:///absolute/path"));
        }
        if path.len() > MAX_PATH {
            return Err(format!("{path:?} is too long for a unix socket: at most {MAX_PATH} bytes"));
        }
        Ok(Self(path.into()))
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_unix_sockets_are_addresses() {
        let socket = Path::new("/run/x.sock");
        assert_eq!(ListenAddress::parse("unix:///run/x.sock").unwrap().path(), socket);
        assert_eq!(ListenAddress::parse("/run/x.sock").unwrap().path(), socket);
        for text in ["", "run/x.sock", "unix://run/x.sock", "tcp://127.0.0.1:80", "http:///x"] {
            assert!(ListenAddress::parse(text).is_err(), "{text}");
        }
        assert!(ListenAddress::parse(&format!("/{}", "a".repeat(107))).is_err());
    }
}
