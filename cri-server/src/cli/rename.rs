//! `crisp rename`: refused, with the reason.

use std::process::ExitCode;

use anyhow::bail;

/// Refused: the name of a container is part of what it was created with
///
/// Pods and containers are found by their names by everyone who uses the CRI; a kubelet whose container had another
/// name would start a second one. Make a container with the new name instead: `crisp commit` keeps what the old one
/// has written, and `crisp tag` gives an image another name.
#[derive(Debug, clap::Args)]
pub struct Rename {
    /// Container
    container: String,
    /// The name that it cannot get
    name: String,
}

impl Rename {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        bail!(
            "{} cannot be called {}: a container's name is part of what it was created with, and clients of the CRI \
             find it by that; make a container with the new name",
            self.container,
            self.name
        )
    }
}
