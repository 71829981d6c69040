//! CDI, the Container Device Interface: devices that vendors describe in files on the node, up to version 1.0
//! of <https://github.com/cncf-tags/container-device-interface>, which is another number for 0.8.
//!
//! ```text
//!   CDI_devices, annotations cdi.k8s.io/* ─> DeviceName ─> find() in the spec folders ─> Edits
//!                                                             Edits ─> the container's record ─> its OCI spec
//! ```
//!
//! A container keeps the edits from its creation: later changes of the files only affect later containers.
//! Hooks become those of the container's OCI spec, and `ops::container_hooks` runs them: as root of the host, so that
//! the folders must be writable for root alone. A request can only name devices, never hooks.
//! Parts of a spec that this server does not support (intelRdt, netDevices) are refused by name, never ignored.

mod edits;
mod file;
mod find;
mod name;

use std::io;
use std::path::PathBuf;

pub use edits::{DeviceNode, Edits, Hook, HostMount};
pub use find::find;
pub use name::{DeviceName, InvalidName, of_annotations};

/// The default spec folders: the first is for administrators, the second for programs that write specs while
/// the node runs. A device in a later folder replaces one of the same name in an earlier one.
pub const SPEC_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The reason why a container does not get its CDI devices.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    #[error("no CDI spec in {} has the device {name}{}", list(folders), unreadable(broken))]
    Unknown { name: DeviceName, folders: Vec<PathBuf>, broken: Vec<FileError> },
    #[error("the CDI device {name} is in {} and in {}: one of them has to go", first.display(), second.display())]
    Twice { name: DeviceName, first: PathBuf, second: PathBuf },
    #[error("the CDI device {name} in {}: {field} is not supported", path.display())]
    Unsupported { name: DeviceName, path: PathBuf, field: &'static str },
    #[error("the CDI device {name} in {}: {field}: {reason}", path.display())]
    Invalid { name: DeviceName, path: PathBuf, field: String, reason: String },
}

/// A spec that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct FileError {
    pub path: PathBuf,
    pub reason: String,
}

impl FileError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self { path, reason: error.to_string() }
    }
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ")
}

fn unreadable(broken: &[FileError]) -> String {
    let errors: Vec<String> = broken.iter().map(FileError::to_string).collect();
    if errors.is_empty() { String::new() } else { format!(" (not readable: {})", errors.join("; ")) }
}
