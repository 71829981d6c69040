//! Parses one hosts.toml. An unknown key is an error: an ignored `skip_verfy` costs hours of search, and an
//! ignored `overide_path` sends pulls to the wrong place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use toml::{Table, Value};

use crate::registry::{ClientPair, Host, Secret, Url};

/// A longer `dial_timeout` is cut to this.
const MAX_DIAL_TIMEOUT: Duration = Duration::from_secs(3600);

/// An error in a hosts.toml.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostsFileError {
    /// Not TOML.
    #[error("{}: {why}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message, with line and column.
        why: String,
    },
    /// A key or value that is not supported.
    #[error("{}: {key}: {why}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key with the tables that it is in.
        key: String,
        /// The reason why it is not valid.
        why: String,
    },
}

/// A parsed hosts.toml.
#[derive(Debug)]
pub(super) struct HostsFile {
    pub(super) path: PathBuf,
    /// In the order of the file.
    pub(super) mirrors: Vec<HostEntry>,
    /// `server = `, if given.
    pub(super) server_url: Option<Url>,
    /// The options at the top of the file, which apply to the server. Its `url` is unused.
    pub(super) server: HostEntry,
}

/// One server's options.
#[derive(Debug)]
pub(super) struct HostEntry {
    pub(super) host: Host,
    pub(super) pull: bool,
    pub(super) resolve: bool,
}

impl HostsFile {
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, HostsFileError> {
        let mut table: Table = toml::from_str(text).map_err(|e| HostsFileError::Syntax {
            path: path.to_owned(),
            why: e.to_string().trim().to_owned(),
        })?;
        let at = At { path, prefix: String::new() };
        let server = table.remove("server").map(|v| at.text("server", v)).transpose()?;
        let mut mirrors = Vec::new();
        if let Some(hosts) = table.remove("host") {
            for (address, options) in at.table("host", hosts)? {
                let at = At { path, prefix: format!("host.{address:?}.") };
                let options = at.table("", options)?;
                mirrors.push(at.host(&address, options)?);
            }
        }
        let address = server.clone().unwrap_or_else(|| "https://registry.invalid".to_owned());
        let server_options = at.host(&address, table)?;
        let server_url = server.map(|_| server_options.host.url.clone());
        Ok(Self { path: path.to_owned(), mirrors, server_url, server: server_options })
    }
}

/// The position in the file, for errors.
struct At<'a> {
    path: &'a Path,
    prefix: String,
}

impl At<'_> {
    fn fail<T>(&self, key: &str, why: impl Into<String>) -> Result<T, HostsFileError> {
        let key = format!("{}{key}", self.prefix);
        let key = key.trim_end_matches('.').to_owned();
        Err(HostsFileError::Key { path: self.path.to_owned(), key, why: why.into() })
    }

    fn host(&self, address: &str, options: Table) -> Result<HostEntry, HostsFileError> {
        let mut host = Host::new(self.address(address)?);
        let (mut pull, mut resolve) = (true, true);
        let mut override_path = false;
        for (key, value) in options {
            match key.as_str() {
                "capabilities" => (pull, resolve) = self.capabilities(value)?,
                "skip_verify" => host.tls.skip_verify = self.boolean(&key, &value)?,
                "override_path" => override_path = self.boolean(&key, &value)?,
                "ca" => host.tls.ca = self.texts(&key, value)?.iter().map(|t| self.relative(t)).collect(),
                "client" => host.tls.client = self.client(value)?,
                "header" => host.headers = self.headers(value)?,
                "dial_timeout" => {
                    let text = self.text(&key, value)?;
                    let parsed = dial_timeout(&text);
                    host.dial_timeout = Some(parsed.map_or_else(
                        || self.fail(&key, format!("{text:?} is not a duration like \"3s\"")),
                        Ok,
                    )?);
                }
                _ => return self.fail(&key, "is not a supported key of a hosts.toml"),
            }
        }
        host.url = api_url(&host.url, override_path);
        Ok(HostEntry { host, pull, resolve })
    }

    /// An address without a scheme is https, except on this machine.
    fn address(&self, text: &str) -> Result<Url, HostsFileError> {
        let parsed = if text.contains("://") { Url::parse(text) } else { Url::of_registry(text) };
        parsed.or_else(|e| self.fail(if self.prefix.is_empty() { "server" } else { "" }, e.to_string()))
    }

    fn capabilities(&self, value: Value) -> Result<(bool, bool), HostsFileError> {
        let (mut pull, mut resolve) = (false, false);
        for name in self.texts("capabilities", value)? {
            match name.as_str() {
                "pull" => pull = true,
                "resolve" => resolve = true,
                // Valid, but a runtime neither pushes nor lists referrers.
                "push" | "referrers" => {}
                _ => {
                    let why =
                        format!("{name:?} is not one of \"pull\", \"resolve\", \"push\", \"referrers\"");
                    return self.fail("capabilities", why);
                }
            }
        }
        Ok((pull, resolve))
    }

    /// `"both.pem"`, `["both.pem", …]` or `[["cert.pem", "key.pem"], …]`.
    fn client(&self, value: Value) -> Result<Vec<ClientPair>, HostsFileError> {
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        let mut pairs = Vec::new();
        for value in values {
            let files = self.texts("client", value)?;
            let key = files.get(1).filter(|k| !k.is_empty()).map(|k| self.relative(k));
            match files.first() {
                Some(cert) if files.len() <= 2 => pairs.push(ClientPair { cert: self.relative(cert), key }),
                _ => return self.fail("client", "expected a file, or pairs of certificate and key"),
            }
        }
        Ok(pairs)
    }

    fn headers(&self, value: Value) -> Result<Vec<(HeaderName, Secret)>, HostsFileError> {
        let mut headers = Vec::new();
        for (name, value) in self.table("header", value)? {
            let key = format!("header.{name}");
            let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
                return self.fail(&key, "is not the name of a header");
            };
            for text in self.texts(&key, value)? {
                if HeaderValue::from_str(&text).is_err() {
                    return self.fail(&key, "has characters that no header may carry");
                }
                headers.push((header.clone(), Secret::new(text)));
            }
        }
        Ok(headers)
    }

    fn relative(&self, file: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).join(file)
    }

    fn boolean(&self, key: &str, value: &Value) -> Result<bool, HostsFileError> {
        value.as_bool().map_or_else(|| self.fail(key, "expected true or false"), Ok)
    }

    fn text(&self, key: &str, value: Value) -> Result<String, HostsFileError> {
        match value {
            Value::String(text) => Ok(text),
            _ => self.fail(key, "expected a text in quotes"),
        }
    }

    fn texts(&self, key: &str, value: Value) -> Result<Vec<String>, HostsFileError> {
        match value {
            Value::Array(values) => values.into_iter().map(|v| self.text(key, v)).collect(),
            one => Ok(vec![self.text(key, one)?]),
        }
    }

    fn table(&self, key: &str, value: Value) -> Result<Table, HostsFileError> {
        match value {
            Value::Table(table) => Ok(table),
            _ => self.fail(key, "expected a table"),
        }
    }
}

/// Appends `/v2`, unless it is there or `override_path` declares the path complete.
fn api_url(url: &Url, override_path: bool) -> Url {
    let path = url.path().trim_end_matches('/');
    let path = if override_path || path.ends_with("/v2") { path.to_owned() } else { format!("{path}/v2") };
    url.replace_path(&path)
}

fn dial_timeout(text: &str) -> Option<Duration> {
    let time = crisp_operation::parse_duration(text).filter(|time| !time.is_zero());
    time.map(|time| time.min(MAX_DIAL_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dial_timeout_is_more_than_nothing_and_at_most_an_hour() {
        assert_eq!(dial_timeout("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(dial_timeout("99999999h"), Some(MAX_DIAL_TIMEOUT));
        assert_eq!(dial_timeout("0s"), None);
    }
}
