//! `crisp oci pause` and `resume`: use the freezer of a container's cgroup.

use std::path::Path;

use anyhow::bail;
use crisp_executor::cgroup::{Cgroup, Cgroups};

use super::id::OciId;
use super::state_folder::StateFolder;
use super::status::{self, Status};

/// Pause all processes of a container
#[derive(Debug, clap::Args)]
pub struct Pause {
    id: OciId,
}

/// Resume the processes of a paused container
#[derive(Debug, clap::Args)]
pub struct Resume {
    id: OciId,
}

impl Pause {
    pub fn run(self, root: &Path) -> anyhow::Result<()> {
        let (folder, cgroup) = locked(root, &self.id, "pause", &[Status::Created, Status::Running])?;
        cgroup.freeze()?;
        drop(folder);
        Ok(())
    }
}

impl Resume {
    pub fn run(self, root: &Path) -> anyhow::Result<()> {
        let (folder, cgroup) = locked(root, &self.id, "resume", &[Status::Paused])?;
        cgroup.thaw()?;
        drop(folder);
        Ok(())
    }
}

fn locked(root: &Path, id: &OciId, what: &str, allowed: &[Status]) -> anyhow::Result<(StateFolder, Cgroup)> {
    let folder = StateFolder::lock(root, id)?;
    let record = folder.whole_record(id)?;
    let status = status::now(&folder, Some(&record))?.status;
    if !allowed.contains(&status) {
        let state = if status == Status::Stopped { "container not running" } else { status.as_str() };
        bail!("cannot {what} container {id}: {state}");
    }
    Ok((folder, Cgroups::detect()?.open(&record.cgroup)?))
}
