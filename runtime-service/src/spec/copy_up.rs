//! Mounts that a client marks by an annotation: an empty folder there gets the image's files at the mount point, as docker's
//! volumes do. The CRI has no field for that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::container::config::{ContainerConfig, Mount};
use crate::spec::mounts::same_place;

/// A JSON list of mount points: `["/var/lib/db"]`.
pub const COPY_UP: &str = "crisp/copy-up";

/// The mount points of the annotation.
///
/// # Errors
/// It is not a list of texts.
pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Result<Vec<PathBuf>, String> {
    let Some(text) = annotations.get(COPY_UP) else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| format!("expected a list of mount points: {error}"))
}

/// The marked mounts of folders of the host.
pub fn mounts(config: &ContainerConfig) -> Vec<&Mount> {
    let places = of_annotations(&config.annotations).unwrap_or_default();
    let is_marked = |mount: &&Mount| {
        mount.image.is_none() && places.iter().any(|place| same_place(&mount.container_path, place))
    };
    config.mounts.iter().filter(is_marked).collect()
}

/// The folder beside a volume in which its copy is made. Volumes have no such names.
pub fn draft(volume: &Path) -> PathBuf {
    let name = volume.file_name().unwrap_or_default().to_string_lossy();
    volume.with_file_name(format!(".{name}.copying"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_nothing_else() {
        let read = |text: &str| of_annotations(&BTreeMap::from([(COPY_UP.to_owned(), text.to_owned())]));
        assert_eq!(read(r#"["/a", "/b"]"#).unwrap(), [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert!(of_annotations(&BTreeMap::new()).unwrap().is_empty());
        for text in ["", "/a", "{}", "[1]"] {
            assert!(read(text).unwrap_err().contains("expected a list"), "{text}");
        }
    }
}
