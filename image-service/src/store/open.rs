//! Opens the store: loads the content of the disk. Nothing is deleted here.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use crisp_operation::clock;
use rustix::fs::IFlags;

use super::damage_list::DamageList;
use super::error::StoreError;
use super::load::{entries, resolve_duplicate_names};
use super::lock::StoreLock;
use super::sync::FileSystems;
use super::{Health, Inner, State, Store, StoreConfig, exchange};
use crate::background::Background;
use crate::digest::DiffId;
use crate::layout::{self, Layout};

impl Store {
    /// Opens, and creates where missing, the store below `root`.
    ///
    /// A record that is damaged, or from a newer release, is set aside with its content and a warning: the
    /// image is pulled again when it is needed. A record that the disk refuses to read stays for the next
    /// start. An image that was not durable when the machine went down is not loaded. A layer from an earlier
    /// boot that no image names is checked before a pull uses it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another server has opened it, or a folder cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(StoreConfig { root: root.to_owned(), ..StoreConfig::default() })
    }

    /// [`open`](Self::open) with all options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(config: StoreConfig) -> Result<Self, StoreError> {
        let StoreConfig { root, state, limits } = config;
        let layout = Layout::new(&root, state.as_deref());
        for folder in layout.folders() {
            // Only for root: layers contain setuid programs.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(StoreError::at("create", &folder))?;
        }
        spread_on_ext4(&layout.unpacking());
        let lock = StoreLock::take(&layout)?;
        let inner = Inner {
            limits,
            state: RwLock::default(),
            writing: Mutex::new(()),
            disk_full: AtomicBool::new(false),
            trash: Background::new("crisp-trash"),
            syncer: Background::new("crisp-sync"),
            file_systems: FileSystems::open(&layout)?,
            damage_list: DamageList::open(layout.damage_list()),
            next: AtomicU64::new(first_number(&layout)?),
            _lock: lock,
            layout,
        };
        let state = inner.load()?;
        *inner.state_mut() = state;
        let inner = Arc::new(inner);
        Inner::sync_later(&inner);
        Ok(Self { inner })
    }
}

impl Inner {
    fn load(&self) -> Result<State, StoreError> {
        let layout = &self.layout;
        self.finish_exchanges()?;
        let mut state = State::default();
        // Without those that this start sets aside.
        for (folder, aside) in [layout.bad_images(), layout.bad_layers()].iter().zip(&mut state.aside) {
            aside.extend(entries(folder)?.into_iter().map(|(path, _)| path));
        }
        self.load_layers(&mut state)?;
        for folder in [layout.unpacking(), layout.layer_trash(), layout.new_images(), layout.image_trash()] {
            state.leftovers.extend(entries(&folder)?.into_iter().map(|(path, _)| path));
        }
        for (path, name) in entries(&layout.superseded())? {
            match name.split_once('.').map(|(name, _)| layout::digest_of(name)) {
                Some(Ok(digest)) => state.superseded.push((digest.into(), path)),
                _ => tracing::warn!(path = %path.display(), "not a layer's folder; left alone"),
            }
        }
        let mut images = self.load_images(&mut state)?;
        resolve_duplicate_names(&mut images);
        for stored in images {
            state.insert(stored);
        }
        // The record of a synced image was written after its layers had reached the disk.
        let named: Vec<DiffId> =
            state.images.values().flat_map(|i| i.record.lower().iter().cloned()).collect();
        for diff in named {
            match state.layers.get_mut(&diff) {
                Some(layer) if layer.health == Health::Unsynced => layer.health = Health::Unchecked,
                _ => {}
            }
        }
        Ok(state)
    }

    /// Completes exchanges of an earlier server. A copy of a layer whose place is taken is kept as long as
    /// containers run on it.
    fn finish_exchanges(&self) -> Result<(), StoreError> {
        let names = |folder: &Path| -> Result<Vec<String>, StoreError> {
            Ok(entries(folder)?.into_iter().map(|(_, name)| name).collect())
        };
        let (layers, images) = (self.layout.layers(), self.layout.images());
        exchange::finish_interrupted(&layers, &names(&layers)?, |name| {
            layout::named(&self.layout.superseded(), name, self.number())
        });
        exchange::finish_interrupted(&images, &names(&images)?, |_| {
            layout::numbered(&self.layout.image_trash(), self.number())
        });
        Ok(())
    }
}

/// Makes ext4 place each new layer apart from the others, where there is free space. By default all would be
/// beside their common parent, where new files must search past the inodes of deleted files for more than a
/// minute after a deletion: pulling an image again just after its removal would take ten times as long. Other
/// file systems do not know the flag and do not need it.
fn spread_on_ext4(folder: &Path) {
    if let Ok(folder) = File::open(folder)
        && let Ok(flags) = rustix::fs::ioctl_getflags(&folder)
    {
        let _ = rustix::fs::ioctl_setflags(&folder, flags | IFlags::TOPDIR);
    }
}

/// A number that no folder has or had recently: ext4 also considers the name.
fn first_number(layout: &Layout) -> Result<u64, StoreError> {
    let mut highest = u64::try_from(clock::now() / 1_000_000).unwrap_or_default();
    for folder in layout.folders() {
        for (_, name) in entries(&folder)? {
            let number = name.rsplit('.').next().and_then(|digits| digits.parse().ok());
            highest = highest.max(number.filter(|n| *n < u64::MAX / 2).unwrap_or(0));
        }
    }
    Ok(highest + 1)
}
