//! `crisp run IMAGE [COMMAND]`: a pod of one container, described by docker's options.
//!
//! ```text
//!  line --options.rs--> Options --documents.rs--> a Pod (container.rs, security.rs) and its claims
//!          values.rs, ports.rs, mounts.rs, variables.rs, ulimits.rs, gpus.rs: one parser for each kind of value
//!          refused_options.rs: options with a reason instead of a meaning
//!  Pod --> foreground.rs, with streams.rs;  detach.rs, under a server
//! ```
//!
#![doc = include_str!("options.md")]

mod container;
mod detach;
mod documents;
mod gpus;
mod mounts;
mod network;
mod options;
mod ports;
mod refused_options;
mod security;
mod ulimits;
mod values;
pub mod variables;

use std::path::Path;

use anyhow::{Context as _, bail};
use crisp_executor::ids::PodId;
use crisp_image_service::Reference;

use super::manifest::{self, Manifests};
pub use detach::{Start, detach};
pub use documents::{ALWAYS, OF_IMAGE, REMOVE, STOP_TIMEOUT};
pub use options::{Options, Pull};
pub use refused_options::Refused;
use values::Restart;

/// The origin of such pods, for people; the image follows it.
pub const SOURCE: &str = "crisp run";

/// The user's request.
struct Wanted<'a> {
    image: &'a str,
    command: &'a [String],
    options: &'a Options,
    /// The uid of the pod.
    uid: &'a str,
    /// Ports that the image exposes, as `80/tcp`, for --publish-all.
    exposed: &'a [String],
    /// No client is attached: input stays open when a client leaves.
    is_detached: bool,
}

/// An image with its options and command.
#[derive(Debug, Clone)]
pub struct ImageRun {
    pub image: String,
    pub command: Vec<String>,
    pub options: Options,
    /// The uid of the pod.
    pub uid: String,
}

impl ImageRun {
    /// For a name that is not a manifest.
    ///
    /// # Errors
    /// It is not a valid image reference, or the file for the id already exists.
    pub fn new(image: &str, command: Vec<String>, options: Options) -> anyhow::Result<Self> {
        Reference::parse(image).with_context(|| format!("{image:?} is no file, no folder and no image"))?;
        if options.rm && options.restart.is_some_and(|restart| restart != Restart::No) {
            bail!("--rm: a container that is started again is not removed: leave out --restart");
        }
        if options.entrypoint.as_deref() == Some("") && command.is_empty() {
            bail!("--entrypoint \"\": without the image's program a command is needed");
        }
        if let Some(path) = options.cidfile.as_ref().filter(|path| path.exists()) {
            bail!(
                "--cidfile {}: the file is there already: another container may have its id in it",
                path.display()
            );
        }
        let uid = PodId::random().short().to_owned();
        Ok(Self { image: image.to_owned(), command, options, uid })
    }

    /// The manifest of the pod.
    ///
    /// # Errors
    /// A value is not valid.
    pub fn manifests(&self, exposed: &[String], is_detached: bool) -> anyhow::Result<Manifests> {
        let wanted = Wanted {
            image: &self.image,
            command: &self.command,
            options: &self.options,
            uid: &self.uid,
            exposed,
            is_detached,
        };
        Ok(manifest::from_documents("the container", documents::documents(&wanted)?)?)
    }
}

/// Whether a word of the command line is a manifest: an existing file takes precedence over an image of that
/// name.
pub fn is_manifest(word: &str) -> bool {
    let is_path =
        word.starts_with(['/', '.']) || [".yaml", ".yml", ".json"].iter().any(|end| word.ends_with(end));
    word == "-" || is_path || Path::new(word).exists()
}

/// Writes the container's id to the file that the options name.
///
/// # Errors
/// The file already exists or cannot be written.
pub fn write_id(options: &Options, id: &str) -> anyhow::Result<()> {
    let Some(path) = &options.cidfile else { return Ok(()) };
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, id.as_bytes()));
    written.with_context(|| format!("--cidfile {}", path.display()))
}

#[cfg(test)]
mod tests;
