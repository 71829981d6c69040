//! `crisp rename`: refuses, with the reason.

use std::process::ExitCode;

use anyhow::bail;

/// Not supported: the name of a container is part of its creation
///
/// All users of the CRI find pods and containers by name: if a container had another name, kubelet would
/// start a second one. Make a container with the new name instead: `crisp commit` keeps the changes of the
/// old one, and `crisp tag` gives an image another name.
#[derive(Debug, clap::Args)]
pub struct Rename {
    /// Container
    container: String,
    /// The new name
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
