//! A network configuration: read once, checked, and kept in the form that plugins expect.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::network::NetworkError;

/// The file, the field and the error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub path: PathBuf,
    pub field: String,
    pub why: String,
}

impl From<Broken> for NetworkError {
    fn from(Broken { path, field, why }: Broken) -> Self {
        Self::CniConfig { path, field, why }
    }
}

/// A supported version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

const VERSIONS: [(&str, Version); 5] = [
    ("0.3.0", Version::V0_3_0),
    ("0.3.1", Version::V0_3_1),
    ("0.4.0", Version::V0_4_0),
    ("1.0.0", Version::V1_0_0),
    ("1.1.0", Version::V1_1_0),
];

impl Version {
    pub(super) fn as_str(self) -> &'static str {
        VERSIONS.iter().find(|(_, version)| *version == self).map_or("", |(text, _)| text)
    }
}

impl TryFrom<String> for Version {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let known = VERSIONS.iter().find(|(known, _)| *known == text);
        known.map(|(_, version)| *version).ok_or_else(|| {
            format!("version {text:?} is not spoken here; 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are")
        })
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.as_str().to_owned()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One plugin of a network, with its whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plugin {
    /// The program's name: not a path, so only the plugin folders are searched.
    pub kind: String,
    pub config: Map<String, Value>,
}

impl Plugin {
    /// Whether the configuration requests this capability.
    pub(super) fn wants(&self, capability: &str) -> bool {
        self.config.get("capabilities").and_then(|c| c.get(capability)) == Some(&Value::Bool(true))
    }

    /// The address plugin that it calls, if it has one.
    pub(super) fn ipam(&self) -> Option<&str> {
        self.config.get("ipam")?.get("type")?.as_str()
    }
}

/// A network: plugins that are called in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::network) struct NetworkList {
    pub(in crate::network) path: PathBuf,
    pub(in crate::network) name: String,
    pub(super) version: Version,
    pub(super) disable_gc: bool,
    #[serde(default)]
    pub(super) disable_check: bool,
    pub(super) plugins: Vec<Plugin>,
}

impl NetworkList {
    /// Parses a list, or a single plugin's configuration as a list of one.
    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self, Broken> {
        let broken =
            |field: &str, why: String| Broken { path: path.to_owned(), field: field.to_owned(), why };
        let value: Value =
            serde_json::from_slice(text).map_err(|e| broken("file", format!("not JSON: {e}")))?;
        let Value::Object(object) = value else {
            return Err(broken("file", "must be an object".to_owned()));
        };
        let name = string(&object, "name").map_err(|why| broken("name", why))?;
        check_name(name).map_err(|why| broken("name", why))?;
        let version = version(&object).map_err(|(field, why)| broken(field, why))?;
        let is_on = |switch: &str| object.get(switch).is_some_and(truthy);
        let (disable_gc, disable_check) = (is_on("disableGC"), is_on("disableCheck"));
        let plugins = match object.get("plugins") {
            // They may be in separate files.
            None if !object.contains_key("type") && path.extension().is_some_and(|e| e == "conflist") => {
                vec![]
            }
            None => vec![plugin(&object).map_err(|why| broken("type", why))?],
            Some(Value::Array(all)) => all
                .iter()
                .enumerate()
                .map(|(at, one)| {
                    listed(one).map_err(|(field, why)| broken(&format!("plugins[{at}]{field}"), why))
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(broken("plugins", "must be a list".to_owned())),
        };
        let (path, name) = (path.to_owned(), name.to_owned());
        let mut list = Self { path, name, version, disable_gc, disable_check, plugins };
        if !is_on("loadOnlyInlinedPlugins") {
            list.add_plugins_of_folder()?;
        }
        if list.plugins.is_empty() {
            let folder = list.folder();
            let why =
                format!("must be a list with at least one plugin, or {} must hold one", folder.display());
            return Err(broken("plugins", why));
        }
        Ok(list)
    }

    /// The folder beside the file in which other programs put plugins for this network.
    fn folder(&self) -> PathBuf {
        self.path.with_file_name(&self.name)
    }

    fn add_plugins_of_folder(&mut self) -> Result<(), Broken> {
        for path in plugin_files(&self.folder()) {
            let broken = |why: String| Broken { path: path.clone(), field: "file".to_owned(), why };
            let text = fs::read(&path).map_err(|error| broken(error.to_string()))?;
            let value: Value =
                serde_json::from_slice(&text).map_err(|error| broken(format!("not JSON: {error}")))?;
            let added = listed(&value).map_err(|(field, why)| broken(format!("plugin{field}: {why}")))?;
            self.plugins.push(added);
        }
        Ok(())
    }
}

/// Sorted by name. Empty for a missing folder.
pub(super) fn plugin_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "conf")).collect();
    files.sort();
    files
}

fn listed(value: &Value) -> Result<Plugin, (&'static str, String)> {
    let Value::Object(object) = value else { return Err(("", "must be an object".to_owned())) };
    plugin(object).map_err(|why| (".type", why))
}

fn plugin(object: &Map<String, Value>) -> Result<Plugin, String> {
    let kind = string(object, "type")?;
    check_type(kind)?;
    if let Some(ipam) = object.get("ipam").and_then(|i| i.get("type")).and_then(Value::as_str) {
        check_type(ipam).map_err(|why| format!("{kind}: ipam.type: {why}"))?;
    }
    Ok(Plugin { kind: kind.to_owned(), config: object.clone() })
}

/// A type with a separator in it could name any program of the host.
fn check_type(kind: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if kind.is_empty() || !kind.bytes().all(allowed) || kind.bytes().all(|b| b == b'.') {
        return Err(format!("{kind:?} is not a plugin name: letters, digits, '.', '_' and '-' only"));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.bytes().all(allowed) && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(format!("{name:?} is not a network name: a letter or digit, then letters, digits, '.', '_' and '-'"))
}

/// The newest version that both sides support: `cniVersions` offers several, `cniVersion` one.
fn version(object: &Map<String, Value>) -> Result<Version, (&'static str, String)> {
    let mut best: Option<Version> = None;
    if let Some(offered) = object.get("cniVersions").and_then(Value::as_array) {
        best = offered.iter().filter_map(|v| Version::try_from(v.as_str()?.to_owned()).ok()).max();
    }
    let single = match (object.get("cniVersion"), best) {
        (None, Some(best)) => return Ok(best),
        (None, None) => {
            return Err((
                "cniVersion",
                "is missing, which means 0.1.0, and that is not spoken here".to_owned(),
            ));
        }
        (Some(Value::String(text)), _) => Version::try_from(text.clone()),
        (Some(_), _) => Err("must be a text".to_owned()),
    };
    match (single, best) {
        (Ok(single), best) => Ok(best.map_or(single, |best| best.max(single))),
        (Err(_), Some(best)) => Ok(best),
        (Err(why), None) => Err(("cniVersion", why)),
    }
}

/// The specification also allows these switches as text.
fn truthy(value: &Value) -> bool {
    matches!(value, Value::Bool(true)) || value.as_str().is_some_and(|t| t.eq_ignore_ascii_case("true"))
}

fn string<'o>(object: &'o Map<String, Value>, field: &str) -> Result<&'o str, String> {
    match object.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err("must be a text".to_owned()),
        None => Err("is missing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkList, String> {
        let path = Path::new("/etc/cni/net.d/10-a.conflist");
        NetworkList::parse(path, text.as_bytes()).map_err(|b| NetworkError::from(b).to_string())
    }

    #[test]
    fn lists_and_single_plugins_are_read() {
        let list = parse(
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},
               {"type":"portmap","capabilities":{"portMappings":true,"dns":false}}]}"#,
        )
        .unwrap();
        assert_eq!(list.version, Version::V1_0_0);
        assert_eq!(list.plugins[0].ipam(), Some("host-local"));
        assert!(list.plugins[1].wants("portMappings"));
        assert!(!list.plugins[1].wants("dns") && !list.plugins[1].wants("bandwidth"));
        let single = parse(r#"{"cniVersion":"0.3.1","name":"a","type":"ptp"}"#).unwrap();
        assert_eq!((single.plugins.len(), single.plugins[0].kind.as_str()), (1, "ptp"));
        let newest =
            parse(r#"{"cniVersion":"0.4.0","cniVersions":["0.4.0","1.1.0","9.0.0"],"name":"a","type":"x"}"#);
        assert_eq!(newest.unwrap().version, Version::V1_1_0);
    }

    #[test]
    fn errors_name_file_and_field() {
        let cases = [
            ("{", "file: not JSON"),
            ("[]", "file: must be an object"),
            (r#"{"cniVersion":"1.0.0"}"#, "name: is missing"),
            (r#"{"name":"-a","cniVersion":"1.0.0","type":"x"}"#, "name: \"-a\" is not a network name"),
            (r#"{"name":"a","type":"x"}"#, "cniVersion: is missing, which means 0.1.0"),
            (
                r#"{"name":"a","cniVersion":"0.2.0","type":"x"}"#,
                "cniVersion: version \"0.2.0\" is not spoken",
            ),
            (r#"{"name":"a","cniVersion":"1.0.0","plugins":[]}"#, "plugins: must be a list"),
            (
                r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"x"},{}]}"#,
                "plugins[1].type: is missing",
            ),
            (r#"{"name":"a","cniVersion":"1.0.0","plugins":[7]}"#, "plugins[0]: must be an object"),
            (
                r#"{"name":"a","cniVersion":"1.0.0","type":"../../bin/sh"}"#,
                "type: \"../../bin/sh\" is not a plugin",
            ),
            (r#"{"name":"a","cniVersion":"1.0.0","type":".."}"#, "type: \"..\" is not a plugin name"),
            (
                r#"{"name":"a","cniVersion":"1.0.0","type":"x","ipam":{"type":"/sh"}}"#,
                "type: x: ipam.type: \"/sh\"",
            ),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            let expected = format!("CNI configuration /etc/cni/net.d/10-a.conflist: {expected}");
            assert!(error.starts_with(&expected), "{text}: {error}");
        }
    }
}
