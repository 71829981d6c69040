//! Loads images out of archives, and makes images of root file systems.

use std::io::Read;
use std::sync::Arc;

use serde::Deserialize;

use super::entries::{Entries, blob};
use super::image;
use super::layer_tar::{Content, write_layer};
use super::spool::Spool;
use super::{ArchiveError, Changes};
use crate::digest::{DiffId, Digest};
use crate::excerpt::excerpt;
use crate::manifest::{self, Document as Manifest, ImageManifest, Platform, PulledConfig};
use crate::reference::Reference;
use crate::registry::RawManifest;
use crate::store::{Document, Image, LocalImage, Store};

/// Limit for nested indexes.
const MAX_INDEXES: usize = 3;
/// Limit for images in one archive.
const MAX_IMAGES: usize = 1000;
/// Limit for the tags of all images of one archive: every list of images has them.
const MAX_TAGS: usize = 1000;
/// Limit for the bytes of the configurations of all images of one archive: the store keeps them in memory.
const MAX_CONFIGS: usize = 64 << 20;

/// An entry of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

impl Descriptor {
    /// The platform that the list of images gives; it counts more than that of the configuration.
    fn platform(&self) -> Option<&Platform> {
        self.platform.as_ref().filter(|platform| !platform.os.is_empty() && !platform.architecture.is_empty())
    }
}

/// An image that the archive's list of images names. Its documents are not read yet.
enum Listed {
    Docker(DockerImage, Vec<Reference>),
    Layout(LayoutImage),
}

/// An image of an OCI layout.
struct LayoutImage {
    digest: Digest,
    tags: Vec<Reference>,
    /// The platform that its configuration must have; None if the list of images says that it is for this one.
    platform: Option<Platform>,
}

/// An image of the archive: its configuration and the paths of its layers.
struct Found {
    config: Document,
    layers: Vec<String>,
    /// The digest of each layer as it is in the archive, where it is known.
    digests: Vec<Option<Digest>>,
    tags: Vec<Reference>,
    /// The platform that the configuration must have; None if an index says that the image is for this one.
    platform: Option<Platform>,
}

impl Store {
    /// Loads all images of an archive. Each layer is unpacked as in a pull, and compared with its digests.
    /// Blocks.
    ///
    /// # Errors
    /// The archive is not valid. Images before the first wrong one are stored.
    pub fn load(&self, archive: impl Read + Send) -> Result<Vec<Arc<Image>>, ArchiveError> {
        let limits = self.limits().clone();
        let entries = Entries::read(Spool::receive(self, archive, limits.bytes)?, &limits)?;
        let listed = list(&entries)?;
        let (mut images, mut configs) = (Vec::new(), 0);
        // The documents of one image at a time: a short list can name the same large document often.
        for listed in listed {
            let found = listed.find(&entries)?;
            configs += found.config.bytes.len();
            if configs > MAX_CONFIGS {
                return Err(ArchiveError::TooMany { what: "bytes of configurations", limit: MAX_CONFIGS });
            }
            images.push(self.load_one(&entries, found)?);
        }
        Ok(images)
    }

    fn load_one(&self, entries: &Entries, found: Found) -> Result<Arc<Image>, ArchiveError> {
        let name = found.tags.first().map_or_else(|| found.config.digest.to_string(), ToString::to_string);
        let config = PulledConfig::parse(
            &found.config.bytes,
            &found.config.digest,
            found.layers.len(),
            found.platform.as_ref(),
        );
        let config = config.map_err(|source| ArchiveError::Image { image: name, source })?;
        let _hold = self.hold(&config.diff_ids);
        let mut layers = Vec::new();
        for ((path, expected), diff) in found.layers.iter().zip(&found.digests).zip(&config.diff_ids) {
            layers.push(self.load_layer(entries, path, expected.as_ref(), diff)?);
        }
        let manifest = image::manifest(&found.config, &layers);
        Ok(self.commit_local(LocalImage { tags: found.tags, manifest, config: found.config })?)
    }

    /// The digest and size of the uncompressed layer; the stored manifest of the image names it by them.
    fn load_layer(
        &self,
        entries: &Entries,
        path: &str,
        expected: Option<&Digest>,
        diff: &DiffId,
    ) -> Result<(Digest, u64), ArchiveError> {
        let (content, size) = entries.content(path)?;
        if let Some(expected) = expected {
            check(content, path, expected)?;
        }
        if !self.has_layer(diff) {
            let (content, _) = entries.content(path)?;
            self.ingest_layer(diff, content)?;
        }
        Ok((diff.digest().clone(), size))
    }

    /// Makes an image with one layer from an archive of files. Blocks.
    ///
    /// # Errors
    /// The archive or the changes are not valid.
    pub fn import(
        &self,
        archive: impl Read + Send,
        tag: Option<Reference>,
        changes: &Changes,
    ) -> Result<Arc<Image>, ArchiveError> {
        let spool = Spool::receive(self, archive, self.limits().bytes)?;
        self.add_layer(None, &spool, tag, changes, "crisp import")
    }

    /// Makes an image from another one and a tree above it: the upper folder of a container. Blocks.
    ///
    /// # Errors
    /// The tree cannot be read, the image or one of its layers is gone, or the changes are not valid.
    pub fn commit_tree(
        &self,
        below: &Image,
        tree: (&std::path::Path, &Content<'_>),
        tag: Option<Reference>,
        changes: &Changes,
        created_by: &str,
    ) -> Result<Arc<Image>, ArchiveError> {
        let spool = Spool::written(self, |into| write_layer(tree.0, tree.1, false, into))?;
        self.add_layer(Some(below), &spool, tag, changes, created_by)
    }

    fn add_layer(
        &self,
        below: Option<&Image>,
        spool: &Spool,
        tag: Option<Reference>,
        changes: &Changes,
        created_by: &str,
    ) -> Result<Arc<Image>, ArchiveError> {
        let before = below.map(|image| self.image_config(&image.id)).transpose()?;
        let config = image::with_layer(before.as_deref(), spool.digest(), changes, created_by)?;
        let diff = DiffId::from(spool.digest().clone());
        let mut diff_ids = below.map_or_else(Vec::new, |image| image.diff_ids.clone());
        diff_ids.push(diff.clone());
        let _hold = self.hold(&diff_ids);
        if !self.has_layer(&diff) {
            self.ingest_layer(&diff, spool.open()?)?;
        }
        let layers: Vec<(Digest, u64)> = diff_ids.iter().map(|diff| (diff.digest().clone(), 0)).collect();
        let manifest = image::manifest(&config, &layers);
        Ok(self.commit_local(LocalImage { tags: tag.into_iter().collect(), manifest, config })?)
    }
}

/// The images of the archive. Of the two lists that an archive may have, docker's knows no platforms.
fn list(entries: &Entries) -> Result<Vec<Listed>, ArchiveError> {
    let has_docker = entries.has("manifest.json");
    if entries.has("index.json") {
        let index: Index = parse("index.json", &entries.document("index.json")?)?;
        let has_platforms =
            !index.manifests.is_empty() && index.manifests.iter().all(|d| d.platform().is_some());
        if !has_docker || has_platforms {
            return layout(index);
        }
    }
    if has_docker { docker(entries) } else { Err(ArchiveError::NoImages) }
}

/// The images of a `docker save` archive.
fn docker(entries: &Entries) -> Result<Vec<Listed>, ArchiveError> {
    let name = "manifest.json";
    let images: Vec<DockerImage> = parse(name, &entries.document(name)?)?;
    check_counts(images.len(), images.iter().flat_map(|image| &image.repo_tags).map(Vec::len).sum())?;
    let one = |mut image: DockerImage| {
        let tags = image.repo_tags.take().unwrap_or_default();
        let tags = tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<_, _>>()?;
        Ok(Listed::Docker(image, tags))
    };
    images.into_iter().map(one).collect()
}

/// The images of an OCI layout. An image has a descriptor for each of its tags.
fn layout(index: Index) -> Result<Vec<Listed>, ArchiveError> {
    // A descriptor has at most one tag.
    check_counts(index.manifests.len(), 0)?;
    let mut images: Vec<LayoutImage> = Vec::new();
    for descriptor in index.manifests {
        let tags = tags(&descriptor.annotations)?;
        if let Some(image) = images.iter_mut().find(|image| image.digest == descriptor.digest) {
            image.tags.extend(tags);
            continue;
        }
        let platform = platform_of_config(&descriptor)?;
        images.push(LayoutImage { digest: descriptor.digest, tags, platform });
    }
    Ok(images.into_iter().map(Listed::Layout).collect())
}

/// The platform that the configuration must have; None if the descriptor says that the image is for this one.
fn platform_of_config(descriptor: &Descriptor) -> Result<Option<Platform>, ArchiveError> {
    let host = Platform::host();
    let Some(listed) = descriptor.platform() else { return Ok(Some(host)) };
    if host.accepts(listed) {
        return Ok(None);
    }
    let source = manifest::ManifestError::Platform { wanted: host, available: vec![listed.clone()] };
    Err(ArchiveError::Image { image: descriptor.digest.to_string(), source })
}

fn check_counts(images: usize, tags: usize) -> Result<(), ArchiveError> {
    for (what, number, limit) in [("images", images, MAX_IMAGES), ("tags", tags, MAX_TAGS)] {
        if number > limit {
            return Err(ArchiveError::TooMany { what, limit });
        }
    }
    Ok(())
}

impl Listed {
    /// Reads the documents of the image.
    fn find(self, entries: &Entries) -> Result<Found, ArchiveError> {
        match self {
            Self::Docker(image, tags) => {
                let bytes = entries.document(&image.config)?;
                let config = Document { digest: Digest::sha256(&bytes), bytes };
                let digests = image.layers.iter().map(|path| digest_of_blob(path)).collect();
                Ok(Found { config, layers: image.layers, digests, tags, platform: Some(Platform::host()) })
            }
            Self::Layout(LayoutImage { digest, tags, platform }) => {
                let (manifest, platform) = image_manifest(entries, digest, platform)?;
                let path = blob(&manifest.config.digest);
                let bytes = verified(entries, &path, &manifest.config.digest)?;
                let layers = manifest.layers.iter().map(|layer| blob(&layer.blob.digest)).collect();
                let digests = manifest.layers.iter().map(|layer| Some(layer.blob.digest.clone())).collect();
                let config = Document { digest: manifest.config.digest, bytes };
                Ok(Found { config, layers, digests, tags, platform })
            }
        }
    }
}

/// The image that a descriptor names, directly or through indexes of platforms, and the platform that its
/// configuration must have.
fn image_manifest(
    entries: &Entries,
    mut digest: Digest,
    mut platform: Option<Platform>,
) -> Result<(ImageManifest, Option<Platform>), ArchiveError> {
    let wrong = |digest: &Digest, source| ArchiveError::Image { image: digest.to_string(), source };
    for _ in 0..=MAX_INDEXES {
        let bytes = verified(entries, &blob(&digest), &digest)?;
        let raw = RawManifest { bytes: bytes.into(), digest: digest.clone(), content_type: None };
        let document = Manifest::parse(&raw).map_err(|source| wrong(&digest, source))?;
        match document {
            Manifest::Image(image) => return Ok((image, platform)),
            Manifest::Index(all) => {
                let chosen =
                    manifest::select(&all, &Platform::host()).map_err(|source| wrong(&digest, source))?;
                if chosen.platform.is_some() {
                    platform = None;
                }
                digest = chosen.blob.digest;
            }
        }
    }
    Err(wrong(&digest, manifest::ManifestError::TooDeep { digest: digest.clone() }))
}

/// The full name that containerd writes, or the name of the specification if it is a full one.
fn tags(annotations: &std::collections::BTreeMap<String, String>) -> Result<Vec<Reference>, ArchiveError> {
    let whole = annotations.get("io.containerd.image.name");
    let short = annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']));
    Ok(whole.or(short).map(|name| Reference::parse(name)).transpose()?.into_iter().collect())
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ArchiveError::Document { name: name.to_owned(), why: excerpt(&error.to_string()) })
}

/// The digest in a path `blobs/sha256/DIGITS`.
fn digest_of_blob(path: &str) -> Option<Digest> {
    let (algorithm, digits) = path.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{digits}")).ok()
}

fn verified(entries: &Entries, path: &str, expected: &Digest) -> Result<Vec<u8>, ArchiveError> {
    let bytes = entries.document(path)?;
    if expected.matches(&bytes) {
        return Ok(bytes);
    }
    Err(ArchiveError::Digest { name: path.to_owned(), expected: expected.clone() })
}

fn check(mut content: impl Read, path: &str, expected: &Digest) -> Result<(), ArchiveError> {
    let mut hasher = crate::digest::Hasher::new(expected.algorithm());
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = content.read(&mut buffer).map_err(ArchiveError::io("read a temporary file"))?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
    }
    if hasher.finish() == *expected {
        return Ok(());
    }
    Err(ArchiveError::Digest { name: path.to_owned(), expected: expected.clone() })
}
