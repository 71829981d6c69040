//! ConfigMaps, Secrets and PersistentVolumeClaims, for pods in the same manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::metadata::is_dns_name;
use super::strict_object::Object;

/// Size limit of a Secret or ConfigMap, as in a cluster.
const MOST_DATA: usize = 1 << 20;

/// All of them, by namespace and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    config_maps: BTreeMap<(String, String), Data>,
    secrets: BTreeMap<(String, String), Data>,
    claims: BTreeMap<(String, String), ()>,
}

/// Keys with their values. A secret's are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Data {
    all: BTreeMap<String, Vec<u8>>,
    /// Keys of a ConfigMap with binary values: only for files.
    binary: BTreeSet<String>,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.all.keys()).finish()
    }
}

impl Data {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.all.get(key).map(Vec::as_slice)
    }

    /// The value of a key, for a variable.
    pub fn variable(&self, key: &str) -> Option<&[u8]> {
        self.get(key).filter(|_| !self.binary.contains(key))
    }

    /// All keys, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.all.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// All keys whose values can be variables, in order.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.iter().filter(|(key, _)| !self.binary.contains(*key))
    }
}

impl Objects {
    /// The data of a Secret or ConfigMap.
    pub fn data(&self, namespace: &str, name: &str, is_secret: bool) -> Option<&Data> {
        let all = if is_secret { &self.secrets } else { &self.config_maps };
        all.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Whether a PersistentVolumeClaim is in the manifests.
    pub fn has_claim(&self, namespace: &str, name: &str) -> bool {
        self.claims.contains_key(&(namespace.to_owned(), name.to_owned()))
    }

    /// Reads the document of an object; returns false for another kind.
    pub fn read(&mut self, kind: &str, root: &Object<'_>) -> bool {
        match kind {
            "ConfigMap" => {
                let data = config_map(root);
                add(&mut self.config_maps, root, data);
            }
            "Secret" => {
                let data = secret(root);
                add(&mut self.secrets, root, data);
            }
            "PersistentVolumeClaim" => {
                claim(root);
                add(&mut self.claims, root, ());
            }
            _ => return false,
        }
        true
    }
}

fn add<T>(all: &mut BTreeMap<(String, String), T>, root: &Object<'_>, value: T) {
    root.without_effect(&["status"]);
    let metadata = root.object("metadata");
    root.finish();
    let Some(metadata) = metadata else {
        root.refuse("metadata", "is required");
        return;
    };
    let name = metadata.required("name");
    let namespace = metadata.string("namespace").filter(|text| !text.is_empty());
    metadata.string_map("labels");
    metadata.string_map("annotations");
    metadata.without_effect(&super::metadata::OF_THE_SERVER);
    metadata.finish();
    let Some(name) = name else { return };
    if !is_dns_name(&name) {
        metadata.refuse("name", format_args!("{name:?} is not a name"));
    }
    let key = (namespace.unwrap_or_else(|| "default".to_owned()), name);
    if all.insert(key, value).is_some() {
        metadata.refuse("name", "is there twice");
    }
}

fn config_map(root: &Object<'_>) -> Data {
    let mut data = text_map(root, "data");
    let mut binary = BTreeSet::new();
    for (key, value) in binary_map(root, "binaryData") {
        if data.insert(key.clone(), value).is_some() {
            root.refuse(&format!("binaryData.{key}"), "is in data, too");
        }
        binary.insert(key);
    }
    root.bool("immutable");
    Data { binary, ..checked(root, data) }
}

fn secret(root: &Object<'_>) -> Data {
    let mut data: BTreeMap<_, _> = binary_map(root, "data").into_iter().collect();
    data.extend(text_map(root, "stringData"));
    root.string("type");
    root.bool("immutable");
    checked(root, data)
}

fn checked(root: &Object<'_>, data: BTreeMap<String, Vec<u8>>) -> Data {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    for key in data.keys() {
        if key.is_empty() || key.len() > 253 || key == "." || key == ".." || !key.bytes().all(plain) {
            root.refuse("data", format_args!("{key:?} is no key: letters, digits, '-', '_' and '.'"));
        }
    }
    if data.values().map(Vec::len).sum::<usize>() > MOST_DATA {
        root.refuse("data", "is larger than 1 MiB, the most in a cluster");
    }
    Data { all: data, binary: BTreeSet::new() }
}

fn text_map(root: &Object<'_>, name: &str) -> BTreeMap<String, Vec<u8>> {
    root.string_map(name).into_iter().map(|(key, text)| (key, text.into_bytes())).collect()
}

fn binary_map(root: &Object<'_>, name: &str) -> Vec<(String, Vec<u8>)> {
    let decode = |(key, text): (String, String)| {
        // Tools break long lines.
        let text: String = text.split_ascii_whitespace().collect();
        let decoded = STANDARD.decode(text);
        if decoded.is_err() {
            root.refuse(&format!("{name}.{key}"), "is not base64");
        }
        Some((key, decoded.ok()?))
    };
    root.string_map(name).into_iter().filter_map(decode).collect()
}

/// A claim becomes a folder: its size and class only matter in a cluster.
fn claim(root: &Object<'_>) {
    let Some(spec) = root.object("spec") else { return };
    spec.strings("accessModes");
    spec.word("volumeMode", &[("Filesystem", ())]);
    let names = ["resources", "storageClassName", "volumeAttributesClassName"];
    spec.without_effect(&names);
    spec.unsupported(&["volumeName", "selector", "dataSource", "dataSourceRef"]);
    spec.finish();
}
