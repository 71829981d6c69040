//! The definitions of named built-in networks on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crisp_operation::record::{self, Durability, RecordError};
use serde::{Deserialize, Serialize};

use super::error::file;
use super::pools::Pools;
use super::{Addresses, Exclusions, NetworkError};

/// The definition of a network. It does not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    pub name: String,
    pub bridge: String,
    #[serde(flatten)]
    pub pools: Pools,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    pub internal: bool,
    pub icc: bool,
    #[serde(default, skip_serializing_if = "Exclusions::is_empty")]
    pub masquerade_except: Exclusions,
    #[serde(default, skip_serializing_if = "Addresses::is_default")]
    pub addresses: Addresses,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

impl record::Record for Definition {
    const KIND: &'static str = "definition of a network";
}

/// The folder of all definitions.
#[derive(Debug)]
pub(super) struct Definitions(PathBuf);

impl Definitions {
    /// Makes the folder if necessary.
    pub(super) fn open(folder: PathBuf) -> Result<Self, NetworkError> {
        record::private_folder(&folder).map_err(file("create folder", &folder))?;
        Ok(Self(folder))
    }

    /// All readable definitions. An invalid one is set aside; one that the disk refuses to read may be read
    /// by the next server.
    pub(super) fn load(&self) -> Result<Vec<Definition>, NetworkError> {
        let mut definitions = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(file("list", &self.0))? {
            let path = entry.map_err(file("list", &self.0))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match record::read::<Definition>(&path) {
                Ok(definition) if self.path(&definition.name) == path => definitions.push(definition),
                Ok(definition) => {
                    let (path, name) = (path.display(), definition.name);
                    tracing::error!(%path, name, "a network's definition is in the file of another");
                }
                Err(error) => {
                    let aside = error.is_unusable().then(|| record::set_aside(&path));
                    tracing::error!(%error, ?aside, "a network is not there: its definition cannot be read");
                }
            }
        }
        Ok(definitions)
    }

    pub(super) fn write(&self, definition: &Definition) -> Result<(), RecordError> {
        record::write(&self.path(&definition.name), definition, Durability::PowerCut)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let path = self.path(name);
        record::remove_file(&path).map_err(file("remove", &path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_come_back_and_damaged_ones_are_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let definitions = Definitions::open(folder.path().join("networks")).unwrap();
        let pools = Pools { v4: "10.1.0.0/24".parse().unwrap(), v6: None, gateway: None };
        let lan = Definition {
            name: "lan".to_owned(),
            bridge: "cr-lan".to_owned(),
            pools,
            mtu: Some(1400),
            internal: true,
            icc: false,
            masquerade_except: "10.2.0.0/16".parse().unwrap(),
            addresses: Addresses { range: Some("10.1.0.128/25".parse().unwrap()), ..Addresses::default() },
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            created_at: 7,
        };
        definitions.write(&lan).unwrap();
        fs::write(definitions.path("bad"), "{").unwrap();
        fs::write(definitions.path("other"), fs::read(definitions.path("lan")).unwrap()).unwrap();
        assert_eq!(definitions.load().unwrap(), std::slice::from_ref(&lan));
        assert!(definitions.path("bad").with_extension("json.bad").exists());
        definitions.remove("lan").unwrap();
        assert_eq!(definitions.load().unwrap(), []);
    }
}
