//! Cleans what a run has left that was killed: its processes end with it, its cgroups and settings stay.

use std::path::Path;

use super::snapshot::processes;
use super::sysctls::Sysctls;
use super::{cgroups, sysctls};
use crate::Result;

/// The beginning of a cluster's name, which is that of its folder and of its cgroups.
pub(super) const PREFIX: &str = "crisp-cluster-";

/// Removes the cgroups and folders of clusters that have no process any more, and says so.
pub(super) fn clean() -> Result<()> {
    for name in cgroups::names(PREFIX)? {
        if processes(&name).next().is_some() {
            continue;
        }
        cgroups::remove(&name)?;
        let folder = Path::new("/tmp").join(&name);
        drop(Sysctls::of_earlier(&folder.join(sysctls::FILE)));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        println!("removed what an earlier run had left when it was killed: {name}");
    }
    Ok(())
}
