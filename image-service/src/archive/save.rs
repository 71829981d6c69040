//! Writes images into an archive.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::ArchiveError;
use super::entries::blob;
use super::image::{self, INDEX, MANIFEST};
use super::layer_tar::{Content, write_layer};
use super::spool::Measured;
use crate::digest::{DiffId, Digest};
use crate::manifest::Platform;
use crate::reference::Reference;
use crate::store::{Document, Image, Store};

/// An image with its documents for the archive.
struct Saved {
    config: Document,
    manifest: Document,
    layers: Vec<(Digest, u64)>,
    tags: Vec<String>,
}

/// Size and digest of a layer's archive.
struct Measure {
    digest: Digest,
    size: u64,
}

impl Store {
    /// Writes images, each under the names by which it is requested; an id stands for all its tags. Blocks.
    ///
    /// # Errors
    /// An image or a layer does not exist, or `into` cannot be written.
    pub fn save(&self, names: &[String], into: impl Write) -> Result<(), ArchiveError> {
        let mut images: BTreeMap<String, (Arc<Image>, Vec<String>)> = BTreeMap::new();
        for name in names {
            let image = self.find(name)?;
            let tag = Reference::parse(name).ok().and_then(|reference| reference.repo_tag());
            let tags = match tag.filter(|tag| image.repo_tags.contains(tag)) {
                Some(tag) => vec![tag],
                None => image.repo_tags.clone(),
            };
            let entry = images.entry(image.id.to_string()).or_insert((image, Vec::new()));
            entry.1.extend(tags);
        }
        let all = images.values().flat_map(|(image, _)| image.diff_ids.clone());
        let all: Vec<DiffId> = all.collect();
        let _hold = self.hold(&all);
        let measures = self.measure(&all)?;
        let saved = images.into_values().map(|(image, tags)| self.saved(&image, tags, &measures));
        let saved = saved.collect::<Result<Vec<_>, _>>()?;
        self.write(&saved, &measures, into)
    }

    /// Size and digest of each layer's archive: the enclosing archive needs them first.
    fn measure(&self, layers: &[DiffId]) -> Result<BTreeMap<DiffId, Measure>, ArchiveError> {
        let mut measures = BTreeMap::new();
        for diff in layers {
            if measures.contains_key(diff) {
                continue;
            }
            let mut measured = Measured::new(io::sink());
            self.write_tree(diff, &mut measured, "read a layer")?;
            let (digest, size) = measured.finish();
            measures.insert(diff.clone(), Measure { digest, size });
        }
        Ok(measures)
    }

    /// Leaves out directories that the layer's own archive left out: when the image is loaded, the layers
    /// below determine their attributes, as here.
    fn write_tree(&self, diff: &DiffId, into: impl Write, doing: &'static str) -> Result<(), ArchiveError> {
        let implied = self.implied(diff);
        let content = Content { implied: &|path| implied.contains(path), ..Content::ALL };
        write_layer(&self.layer_tree(diff)?, &content, self.has_opaque_root(diff), into)
            .map_err(ArchiveError::io(doing))
    }

    fn saved(
        &self,
        image: &Image,
        mut tags: Vec<String>,
        measures: &BTreeMap<DiffId, Measure>,
    ) -> Result<Saved, ArchiveError> {
        tags.sort_unstable();
        tags.dedup();
        let layers = image.diff_ids.iter().filter_map(|diff| measures.get(diff));
        let layers: Vec<(Digest, u64)> = layers.map(|layer| (layer.digest.clone(), layer.size)).collect();
        let diff_ids: Vec<Digest> = layers.iter().map(|(digest, _)| digest.clone()).collect();
        let config = image::with_diff_ids(&self.image_config(&image.id)?, &diff_ids)?;
        let manifest = image::manifest(&config, &layers);
        Ok(Saved { config, manifest, layers, tags })
    }

    fn write(
        &self,
        images: &[Saved],
        measures: &BTreeMap<DiffId, Measure>,
        into: impl Write,
    ) -> Result<(), ArchiveError> {
        let failed = || ArchiveError::io("write the archive");
        let mut archive = Builder::new(into);
        let mut documents = vec![
            ("oci-layout".to_owned(), json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes()),
            ("index.json".to_owned(), index(images).to_string().into_bytes()),
            ("manifest.json".to_owned(), docker_manifest(images).to_string().into_bytes()),
        ];
        for image in images {
            documents.extend([&image.config, &image.manifest].map(|d| (blob(&d.digest), d.bytes.clone())));
        }
        for (path, bytes) in documents {
            let mut header = header(bytes.len() as u64);
            archive.append_data(&mut header, path, &bytes[..]).map_err(failed())?;
        }
        let mut written: Vec<&Digest> = Vec::new();
        for (diff, measure) in measures {
            if written.contains(&&measure.digest) {
                continue;
            }
            written.push(&measure.digest);
            self.write_blob(diff, measure, &mut archive)?;
        }
        archive.into_inner().and_then(|mut into| into.flush()).map_err(failed())
    }

    fn write_blob<W: Write>(
        &self,
        diff: &DiffId,
        measure: &Measure,
        archive: &mut Builder<W>,
    ) -> Result<(), ArchiveError> {
        let failed = || ArchiveError::io("write the archive");
        let mut header = header(measure.size);
        header.set_path(blob(&measure.digest)).map_err(failed())?;
        header.set_cksum();
        let into = archive.get_mut();
        into.write_all(header.as_bytes()).map_err(failed())?;
        let mut measured = Measured::new(&mut *into);
        self.write_tree(diff, &mut measured, "write the archive")?;
        let (digest, size) = measured.finish();
        if (&digest, size) != (&measure.digest, measure.size) {
            let name = blob(&measure.digest);
            return Err(ArchiveError::Digest { name, expected: measure.digest.clone() });
        }
        let padding = size.next_multiple_of(512) - size;
        into.write_all(&[0; 512][..usize::try_from(padding).unwrap_or(0)]).map_err(failed())
    }
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

/// The index of an OCI layout, with the annotations that other tools read. Each image is for this platform, whatever
/// its configuration says: an index of the registry may have corrected it.
fn index(images: &[Saved]) -> Value {
    let host = Platform::host();
    let descriptor = |image: &Saved, name: Option<&String>| {
        let mut descriptor = json!({
            "mediaType": MANIFEST, "digest": image.manifest.digest.to_string(), "size": image.manifest.bytes.len(),
            "platform": { "os": host.os, "architecture": host.architecture },
        });
        if let Some(name) = name {
            descriptor["annotations"] =
                json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
        }
        descriptor
    };
    let each = images.iter().flat_map(|image| match &image.tags[..] {
        [] => vec![descriptor(image, None)],
        tags => tags.iter().map(|tag| descriptor(image, Some(tag))).collect(),
    });
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": each.collect::<Vec<_>>() })
}

/// The manifest in the form of `docker save`.
fn docker_manifest(images: &[Saved]) -> Value {
    let one = |image: &Saved| {
        json!({
            "Config": blob(&image.config.digest),
            "RepoTags": image.tags,
            "Layers": image.layers.iter().map(|(digest, _)| blob(digest)).collect::<Vec<_>>(),
        })
    };
    json!(images.iter().map(one).collect::<Vec<_>>())
}
