//! A tar.gz that is written member by member.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;

/// The folder that all members are in.
const FOLDER: &str = "crisp-debug";

pub struct Archive(tar::Builder<GzEncoder<File>>);

impl Archive {
    /// # Errors
    /// The file exists, or cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        // For its owner alone: it has names of pods and images.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        Ok(Self(tar::Builder::new(GzEncoder::new(file, Compression::default()))))
    }

    /// # Errors
    /// The disk is full.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len())?);
        header.set_mode(0o600);
        let now = crisp_operation::clock::now() / 1_000_000_000;
        header.set_mtime(u64::try_from(now).unwrap_or_default());
        self.0.append_data(&mut header, format!("{FOLDER}/{name}"), bytes)?;
        // For a command that is ended while it waits for the next member.
        Ok(self.0.get_mut().flush()?)
    }

    /// # Errors
    /// The disk is full.
    pub fn finish(self) -> anyhow::Result<()> {
        self.0.into_inner()?.finish()?.sync_all()?;
        Ok(())
    }
}
