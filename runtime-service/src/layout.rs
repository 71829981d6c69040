//! Every path that this crate makes on disk.
//!
//! ```text
//!   <root>/containers/<id>/
//!       container.json      ContainerMetadata; written once
//!       status.json         Status; replaced whole
//!       bundle/config.json  the OCI spec, for people, tools and hooks
//!       bundle/rootfs       where hooks find the container's root; only for a container with hooks
//!       bundle/poststop-due     its poststop hooks have not run yet
//!       upper/ work/        the overlay's writable side; work/ and bundle/ are made for the start
//!       copy-work/          the second one's, while files of a container that does not run are copied
//!       volumes/<n>/        one per VOLUME of the image
//!   <root>/containers/<id>.bad      records cannot be read: kept for people to look at
//!   <root>/journal/events.jsonl     what happened, a line each; events.old.jsonl before it
//!   <root>/discarded/<id>           not a container yet, or not any more: deleted
//! ```

use std::path::{Path, PathBuf};

use crisp_executor::ids::ContainerId;

/// The paths below one root folder.
const RECORD: &str = "container.json";

#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder with one folder per container.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Folders of containers that are being created or were removed: a starting server deletes them.
    #[must_use]
    pub fn discarded(&self) -> PathBuf {
        self.root.join("discarded")
    }

    /// The folder of the journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// The file that is written.
    #[must_use]
    pub fn journal_file(&self) -> PathBuf {
        self.journal().join("events.jsonl")
    }

    /// The older of the two files.
    #[must_use]
    pub fn older_journal_file(&self) -> PathBuf {
        self.journal().join("events.old.jsonl")
    }

    #[must_use]
    pub fn container(&self, id: &ContainerId) -> Folder {
        Folder { path: self.containers().join(id.as_str()) }
    }

    /// The folder of a container that is being created or was removed.
    #[must_use]
    pub fn discarded_container(&self, id: &ContainerId) -> Folder {
        Folder { path: self.discarded().join(id.as_str()) }
    }
}

/// The record in a container's folder that was set aside.
pub(crate) fn record_in(folder: &Path) -> PathBuf {
    folder.join(RECORD)
}

/// The folder of one container.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.path.join(RECORD)
    }

    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.path.join("status.json")
    }

    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.path.join("bundle")
    }

    #[must_use]
    pub fn spec(&self) -> PathBuf {
        self.bundle().join("config.json")
    }

    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    /// Exists from a start on until its poststop hooks run.
    #[must_use]
    pub fn poststop_due(&self) -> PathBuf {
        self.bundle().join("poststop-due")
    }

    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    #[must_use]
    pub fn copy_work(&self) -> PathBuf {
        self.path.join("copy-work")
    }

    #[must_use]
    pub fn volume(&self, number: usize) -> PathBuf {
        self.path.join("volumes").join(number.to_string())
    }
}

/// The files of a volume's copy, in the folder beside the volume.
pub fn copied_files(draft: &Path) -> PathBuf {
    draft.join("files")
}

/// The record of the move of these files into the volume.
pub fn copy_moving(draft: &Path) -> PathBuf {
    draft.join("moving")
}
