//! A container's root file system: a detached overlay mount.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a root file system could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("a root file system needs at least one layer")]
    NoLayers,
    #[error("{count} layers are more than the kernel's {max}")]
    TooManyLayers { count: usize, max: usize },
    #[error("layer {path}: {errno}", path = path.display())]
    Layer { path: PathBuf, errno: Errno },
    #[error("overlay over {layers} layers with upper {upper}: {step}: {errno}{detail}", upper = upper.display())]
    Overlay { layers: usize, upper: PathBuf, step: &'static str, errno: Errno, detail: String },
}

/// # Errors
/// Names the layer or the step that failed.
pub fn assemble(layers: &[PathBuf], upper: &Path, _work: &Path) -> Result<OwnedFd, RootfsError> {
    let (layers, upper) = (layers.len(), upper.to_owned());
    Err(RootfsError::Overlay { layers, upper, step: "open", errno: Errno::NOSYS, detail: String::new() })
}

/// The layers without anything writable above: for looking things up in an image.
///
/// # Errors
/// Names the layer or the step that failed.
pub fn read_only_view(layers: &[PathBuf]) -> Result<OwnedFd, RootfsError> {
    assemble(layers, Path::new(""), Path::new(""))
}
