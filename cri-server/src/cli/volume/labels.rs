//! Labels of volumes: a record beside the volume's folder, where what uses the volume cannot write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use crisp_operation::record::{self, Durability, Record};
use serde::{Deserialize, Serialize};

pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Serialize, Deserialize)]
struct LabelsRecord {
    labels: Labels,
}

impl Record for LabelsRecord {
    const KIND: &'static str = "record of a volume's labels";
}

/// No name of a volume begins like this.
fn path_of(volume: &Path) -> PathBuf {
    let name = volume.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    volume.with_file_name(format!(".{name}.labels"))
}

/// The labels of the volume in a folder; none for one that was made without.
///
/// # Errors
/// The record cannot be read or is damaged.
pub fn read(volume: &Path) -> anyhow::Result<Labels> {
    match record::read::<LabelsRecord>(&path_of(volume)) {
        Ok(record) => Ok(record.labels),
        Err(error) if error.is_missing() => Ok(Labels::new()),
        Err(error) => Err(error).context("the labels of the volume: remove this file to have none"),
    }
}

/// # Errors
/// The record cannot be written.
pub fn write(volume: &Path, labels: Labels) -> anyhow::Result<()> {
    Ok(record::write(&path_of(volume), &LabelsRecord { labels }, Durability::PowerCut)?)
}

/// # Errors
/// The record cannot be removed.
pub fn remove(volume: &Path) -> anyhow::Result<()> {
    let path = path_of(volume);
    record::remove_file(&path).with_context(|| path.display().to_string())
}
