//! The paths of the image store. No other file of this crate joins paths of the state folder.
//!
//! ```text
//! <root>/images/<image id>/record.json       names, layers, pin: written whole and renamed
//!                          config.json       exact bytes; their digest is the image id
//!                          manifest.json     exact bytes
//!               .new/<n>/                    an image being written, or archive.tar: images as they are loaded
//!               .trash/<n>/                  an image being removed
//!               .bad/<name>.<n>/             an unreadable image, kept for inspection; a start deletes all
//!                                            except the newest five of those that earlier ones left
//!               .lock                        locked by the one server of this store
//!               .last-check.json             when all layers were last checked
//! <root>/layers/<diff id>/layer.json         size, origin, checksum
//!                         fs/                the tree that overlay mounts
//!               .unpacking/<n>/              a layer being unpacked
//!                              replaced/     directories that its archive replaced
//!               .trash/<n>/                  a layer being removed
//!               .bad/<name>.<n>/             a layer without a readable record, with its content; the same,
//!                                            and no layer stays longer than one boot
//!               .superseded/<name>.<n>/      a damaged layer that containers still run on
//! <root>/{images,layers}/<name>.old/         between two steps of an exchange, where renames cannot exchange
//! <state>/store-damage.json                   damage that the disk refused to note; gone after a reboot
//! ```
//!
//! An id is a folder's name without its algorithm: the number of digits tells sha256 from sha512.
//! Temporary folders are beside what they become, so that a rename never crosses file systems even
//! when `images` or `layers` is a mount of its own.

use std::path::{Path, PathBuf};

use crate::digest::{DiffId, Digest, ImageId, InvalidDigest};

const INTERIM: &str = "old";

/// The folders below one root.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    state: Option<PathBuf>,
}

impl Layout {
    /// The layout below `root`, and below `state` for files that only last until the reboot; creates nothing.
    #[must_use]
    pub fn new(root: &Path, state: Option<&Path>) -> Self {
        Self { root: root.to_owned(), state: state.map(Path::to_owned) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Image records.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Unpacked layers.
    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.images().join(".lock")
    }

    pub(crate) fn damage_list(&self) -> Option<PathBuf> {
        self.state.as_ref().map(|state| state.join("store-damage.json"))
    }

    pub(crate) fn last_check(&self) -> PathBuf {
        self.images().join(".last-check.json")
    }

    pub(crate) fn new_images(&self) -> PathBuf {
        self.images().join(".new")
    }

    pub(crate) fn image_trash(&self) -> PathBuf {
        self.images().join(".trash")
    }

    pub(crate) fn bad_images(&self) -> PathBuf {
        self.images().join(".bad")
    }

    pub(crate) fn bad_layers(&self) -> PathBuf {
        self.layers().join(".bad")
    }

    pub(crate) fn superseded(&self) -> PathBuf {
        self.layers().join(".superseded")
    }

    pub(crate) fn unpacking(&self) -> PathBuf {
        self.layers().join(".unpacking")
    }

    pub(crate) fn layer_trash(&self) -> PathBuf {
        self.layers().join(".trash")
    }

    pub(crate) fn image(&self, id: &ImageId) -> ImageFolder {
        ImageFolder(self.images().join(id.hex()))
    }

    pub(crate) fn layer(&self, diff: &DiffId) -> LayerFolder {
        LayerFolder(self.layers().join(diff.hex()))
    }

    /// Every folder that must exist, parents first.
    pub(crate) fn folders(&self) -> [PathBuf; 9] {
        [
            self.images(),
            self.layers(),
            self.new_images(),
            self.image_trash(),
            self.bad_images(),
            self.unpacking(),
            self.layer_trash(),
            self.bad_layers(),
            self.superseded(),
        ]
    }
}

/// One image's folder, published or being written.
#[derive(Debug, Clone)]
pub(crate) struct ImageFolder(pub PathBuf);

impl ImageFolder {
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    pub fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    pub fn manifest(&self) -> PathBuf {
        self.0.join("manifest.json")
    }
}

/// One layer's folder, published or being unpacked.
#[derive(Debug, Clone)]
pub(crate) struct LayerFolder(pub PathBuf);

impl LayerFolder {
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn record(&self) -> PathBuf {
        self.0.join("layer.json")
    }

    pub fn tree(&self) -> PathBuf {
        self.0.join("fs")
    }

    pub fn replaced(&self) -> PathBuf {
        self.0.join("replaced")
    }
}

/// A numbered folder below one of the temporary ones.
pub(crate) fn numbered(folder: &Path, number: u64) -> PathBuf {
    folder.join(number.to_string())
}

/// An archive that is being received or made, in a temporary folder.
pub(crate) fn spooled(folder: &Path) -> PathBuf {
    folder.join("archive.tar")
}

/// A folder with a name and a number, below a folder that is not temporary.
pub(crate) fn named(folder: &Path, name: &str, number: u64) -> PathBuf {
    folder.join(format!("{name}.{number}"))
}

/// A published image or layer.
pub(crate) fn published(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}

/// The path of a published folder between two steps of an exchange.
pub(crate) fn interim(folder: &Path) -> PathBuf {
    folder.with_extension(INTERIM)
}

/// The name of the published folder for the name of an [`interim`] one.
pub(crate) fn interim_of(name: &str) -> Option<&str> {
    let published = name.strip_suffix(INTERIM)?.strip_suffix('.')?;
    digest_of(published).is_ok().then_some(published)
}

/// The digest that a folder's name stands for.
pub(crate) fn digest_of(name: &str) -> Result<Digest, InvalidDigest> {
    let algorithm = if name.len() == 128 { "sha512" } else { "sha256" };
    Digest::parse(&format!("{algorithm}:{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_name_is_read_back_as_its_digest() {
        let layout = Layout::new(Path::new("/r"), None);
        for text in [format!("sha256:{}", "0".repeat(64)), format!("sha512:{}", "f".repeat(128))] {
            let diff = DiffId::parse(&text).unwrap();
            let folder = layout.layer(&diff);
            let name = folder.path().file_name().unwrap().to_str().unwrap();
            assert_eq!(&digest_of(name).unwrap(), diff.digest());
            let between = interim(folder.path());
            assert_eq!(interim_of(between.file_name().unwrap().to_str().unwrap()), Some(name));
        }
        for name in [".trash", "..", "", "abc", "sha256:00"] {
            assert!(digest_of(name).is_err(), "{name}");
        }
    }
}
