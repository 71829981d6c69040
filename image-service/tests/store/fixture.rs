//! A store in a temporary folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crisp_image_service::digest::Digest;
use crisp_image_service::store::{Condition, Document, IngestError, NewImage};
use crisp_image_service::unpack::Limits;
use crisp_image_service::{DiffId, Reference, Store, StoreConfig, StoreError};

use crate::archive::Archive;

pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub store: Store,
}

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("root"));
        store.start_collection().unwrap();
        Self { folder, store }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Unpacks a plain archive. What is found on disk must be what was noted while it was unpacked.
    pub fn ingest(&self, archive: Archive) -> Result<DiffId, IngestError> {
        let tar = archive.tar();
        let diff = diff_of(&tar);
        self.store.ingest_layer(&diff, &tar[..])?;
        if rustix::process::geteuid().is_root() {
            assert_eq!(self.store.verify(&diff).unwrap(), Condition::Sound);
        }
        Ok(diff)
    }

    /// The archive's tree, which must unpack.
    pub fn tree(&self, archive: Archive) -> PathBuf {
        let diff = self.ingest(archive).unwrap();
        self.layer(&diff)
    }

    /// The text of the error that the archive must cause; nothing may be left of it.
    pub fn refusal(&self, archive: Archive) -> String {
        let error = self.ingest(archive).expect_err("an archive that must be refused").to_string();
        self.assert_no_leftovers();
        error
    }

    pub fn layer(&self, diff: &DiffId) -> PathBuf {
        self.root().join("layers").join(diff.hex()).join("fs")
    }

    /// Waits for the background deleter.
    pub fn assert_no_leftovers(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        for folder in ["layers/.unpacking", "layers/.trash", "images/.new", "images/.trash"] {
            let folder = self.root().join(folder);
            while count(&folder) > 0 {
                assert!(Instant::now() < deadline, "{} is not empty", folder.display());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Another server, which found no container that runs on a layer.
    pub fn reopen(self) -> Self {
        let fixture = self.restart();
        fixture.store.start_collection().unwrap();
        fixture
    }

    /// Another server, which has not looked for containers yet.
    pub fn restart(self) -> Self {
        let Self { folder, store } = self;
        drop(store);
        Self { store: open(&folder.path().join("root")), folder }
    }
}

/// Opens a store that was just dropped: its background threads may have it for another moment.
pub fn open(root: &Path) -> Store {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Store::open_with(config(root)) {
            Ok(store) => return store,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The state folder, which a test need not have, is beside the root.
fn config(root: &Path) -> StoreConfig {
    let state = root.with_file_name("state");
    std::fs::create_dir_all(&state).unwrap();
    StoreConfig { root: root.to_owned(), state: Some(state), ..StoreConfig::default() }
}

pub fn open_limited(root: &Path, limits: Limits) -> Result<Store, StoreError> {
    Store::open_with(StoreConfig { root: root.to_owned(), limits, ..StoreConfig::default() })
}

pub fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

pub fn diff_of(tar: &[u8]) -> DiffId {
    DiffId::from(Digest::sha256(tar))
}

pub fn document(bytes: impl Into<Vec<u8>>) -> Document {
    let bytes = bytes.into();
    Document { digest: Digest::sha256(&bytes), bytes }
}

/// An image of these layers, bottom first; `mark` makes its id differ from others of the same layers.
pub fn image(reference: &str, layers: &[&DiffId], mark: &str) -> NewImage {
    let diffs: Vec<&str> = layers.iter().map(|diff| diff.as_str()).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "author": mark,
        "config": {"User": "1000:1000", "Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    let manifest = document(format!("{{\"mark\":\"{mark}\"}}"));
    NewImage {
        reference: Reference::parse(reference).unwrap(),
        resolved: manifest.digest.clone(),
        manifest,
        config: document(serde_json::to_vec(&config).unwrap()),
    }
}
