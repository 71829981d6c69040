//! A container's root file system: a detached overlay mount over its image's layers.
//!
//! There are three ways, and the best one of the kernel is used: `lowerdir+` by descriptor (Linux 6.13),
//! `lowerdir+` by name (6.8), and mount(2) in the mount namespace of a temporary thread. In all of them the
//! layers are named by descriptors or by their numbers, so that neither the 256 bytes of an fsconfig value
//! nor the page of mount(2) limits their paths or number.

mod classic;
mod idmapped;
mod mount_point;
mod overlay;
mod part;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, OpenTreeFlags, open_tree};

use crate::in_root::InRootError;
use crate::user_namespace::UserNamespaceError;
pub use idmapped::check as check_idmap;
pub use mount_point::make_mount_point;
pub use part::part_of;

/// The kernel's own limit (OVL_MAX_STACK).
const MAX_LAYERS: usize = 500;

/// Layers come from untrusted archives: features by which one file of a layer can stand for another
/// (redirects, indexes, metadata-only copies) are off, independent of the kernel's defaults.
const OPTIONS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")];

/// The overlay never syncs its upper folder, neither when a process calls fsync nor at unmount. The
/// unmount is why: without this option it syncs the *whole* file system that the upper folder is on,
/// in the exit path of the container's last process (40 ms for 64 MB of dirty pages of any process;
/// seconds on a busy disk). The price is a root that may be incomplete after a crash of the machine,
/// which does no harm: containers do not outlive the boot, and a new container starts with an empty
/// upper folder. Volumes are not affected.
const VOLATILE: &str = "volatile";

/// The reason why a root file system could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("a root file system needs at least one layer")]
    NoLayers,
    #[error("{count} layers are more than the {max} that the kernel can stack")]
    TooManyLayers { count: usize, max: usize },
    #[error("layer {path}: {errno}", path = path.display())]
    Layer { path: PathBuf, errno: Errno },
    #[error("writable folder {path} of a root file system: {errno}", path = path.display())]
    Writable { path: PathBuf, errno: Errno },
    #[error(transparent)]
    UserNamespace(#[from] UserNamespaceError),
    #[error("layers in {folder}: {step}: {errno}{hint}", folder = folder.display())]
    Idmap { folder: PathBuf, step: &'static str, errno: Errno, hint: &'static str },
    #[error("overlay of {layers} layers, first {first}: {step}: {errno}{detail}", first = first.display())]
    Overlay { layers: usize, first: PathBuf, step: &'static str, errno: Errno, detail: String },
}

/// The reason why a part of a view could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error(transparent)]
    Path(#[from] InRootError),
    #[error("mount a part of the image: {step}: {errno}")]
    Kernel { step: &'static str, errno: Errno },
}

/// Stacks `layers` (top first) below the writable folder `upper`; `work` is an empty folder beside it. The
/// mount is in no mount table, and ends with the last descriptor and the last container that attached it.
///
/// `user`: a user namespace in which the files of the layers have the owners of the image. Files in `upper`
/// have the owners by their numbers on the host, including `upper` itself, which is the root.
///
/// # Errors
/// The error names the layer, or the failed step with the kernel's message.
pub fn assemble(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    user: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, RootfsError> {
    build(&Parts { layers, above: UpperLayer::Writable { upper, work }, user })
}

/// The same, read-only: the present content of `upper` and `layers` of an [`assemble`]d root, even while that
/// is in use.
///
/// # Errors
/// As for [`assemble`].
pub fn read_only(
    layers: &[PathBuf],
    upper: &Path,
    user: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, RootfsError> {
    build(&Parts { layers, above: UpperLayer::Changed { upper }, user })
}

/// The layers without a writable folder: for lookups in an image, and as a volume.
///
/// # Errors
/// As for [`assemble`].
pub fn read_only_view(layers: &[PathBuf], user: Option<BorrowedFd<'_>>) -> Result<OwnedFd, RootfsError> {
    match (layers, user) {
        // An overlay needs two folders.
        ([only], None) => {
            bind_read_only(only).map_err(|errno| RootfsError::Layer { path: only.clone(), errno })
        }
        ([only], Some(user)) => idmapped::read_only(only, user),
        _ => build(&Parts { layers, above: UpperLayer::Nothing, user }),
    }
}

struct Parts<'a> {
    layers: &'a [PathBuf],
    above: UpperLayer<'a>,
    user: Option<BorrowedFd<'a>>,
}

/// The layer above the image's layers; its files have the host's ids, even with a user namespace.
#[derive(Debug, Clone, Copy)]
enum UpperLayer<'a> {
    Nothing,
    /// Read-only, as one more layer.
    Changed {
        upper: &'a Path,
    },
    Writable {
        upper: &'a Path,
        work: &'a Path,
    },
}

/// The parts of an overlay, opened.
struct Opened {
    layers: Vec<OwnedFd>,
    writable: Option<(OwnedFd, OwnedFd)>,
    /// The mount that contains the layers.
    _mount: Option<OwnedFd>,
}

/// The way in which layers are passed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OverlayApi {
    Descriptors,
    Names,
    Classic,
}

const OVERLAY_APIS: [OverlayApi; 3] = [OverlayApi::Descriptors, OverlayApi::Names, OverlayApi::Classic];

/// The index of the first of [`OVERLAY_APIS`] that this kernel may have.
static FIRST_API: AtomicU8 = AtomicU8::new(0);
/// The same for idmapped layers: only since Linux 6.15 may they be in a detached mount.
static FIRST_IDMAPPED_API: AtomicU8 = AtomicU8::new(0);

fn build(parts: &Parts<'_>) -> Result<OwnedFd, RootfsError> {
    let changed = usize::from(matches!(parts.above, UpperLayer::Changed { .. }));
    match parts.layers.len() + changed {
        0 => return Err(RootfsError::NoLayers),
        count if count > MAX_LAYERS => return Err(RootfsError::TooManyLayers { count, max: MAX_LAYERS }),
        _ => {}
    }
    let known = if parts.user.is_some() { &FIRST_IDMAPPED_API } else { &FIRST_API };
    let first = usize::from(known.load(Ordering::Relaxed));
    let mut result = Err(RootfsError::NoLayers);
    for (index, api) in OVERLAY_APIS.iter().enumerate().skip(first) {
        result = build_by(parts, *api);
        match &result {
            // A kernel returns EINVAL for an unknown parameter, and before 6.5 EOPNOTSUPP for a descriptor.
            Err(RootfsError::Overlay { errno: Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP, .. }) => {}
            Ok(_) => {
                known.store(u8::try_from(index).unwrap_or(0), Ordering::Relaxed);
                break;
            }
            Err(_) => break,
        }
    }
    match (result, parts.user) {
        (Err(error), Some(_)) => Err(idmapped::explain(error, &kernel_release())),
        (result, _) => result,
    }
}

/// Returns the release of the kernel, for example `6.1.0-18-amd64`.
fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn build_by(parts: &Parts<'_>, api: OverlayApi) -> Result<OwnedFd, RootfsError> {
    match api {
        OverlayApi::Descriptors | OverlayApi::Names => {
            let opened = parts.open(idmapped::LayersMount::Detached)?;
            overlay::configure(&opened, api).map_err(|failure| parts.error(failure))
        }
        OverlayApi::Classic => classic::build(parts),
    }
}

/// The step that failed, with the kernel's error and message.
struct Failure {
    step: &'static str,
    errno: Errno,
    detail: String,
}

impl Failure {
    fn at(step: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self { step, errno, detail: String::new() }
    }
}

impl Parts<'_> {
    fn open(&self, layers_mount: idmapped::LayersMount) -> Result<Opened, RootfsError> {
        let folder = |path: &Path| {
            open_folder(path).map_err(|errno| RootfsError::Writable { path: path.to_owned(), errno })
        };
        // Opened before a mount is attached that may cover them.
        let (changed, writable) = match self.above {
            UpperLayer::Nothing => (None, None),
            UpperLayer::Changed { upper } => (Some(folder(upper)?), None),
            UpperLayer::Writable { upper, work } => (None, Some((folder(upper)?, folder(work)?))),
        };
        if let (Some((_, opened)), UpperLayer::Writable { work, .. }) = (&writable, self.above) {
            let failed = |errno| RootfsError::Writable { path: work.to_owned(), errno };
            forget_volatile(opened).map_err(failed)?;
        }
        let (layers, mount) = self.open_layers(layers_mount)?;
        Ok(Opened { layers: changed.into_iter().chain(layers).collect(), writable, _mount: mount })
    }

    fn open_layers(
        &self,
        layers_mount: idmapped::LayersMount,
    ) -> Result<(Vec<OwnedFd>, Option<OwnedFd>), RootfsError> {
        match self.user {
            Some(user) => {
                let (layers, mount) = idmapped::open(self.layers, user, layers_mount)?;
                Ok((layers, Some(mount)))
            }
            None => {
                let layer = |path: &PathBuf| {
                    open_folder(path).map_err(|errno| RootfsError::Layer { path: path.clone(), errno })
                };
                Ok((self.layers.iter().map(layer).collect::<Result<_, _>>()?, None))
            }
        }
    }

    /// Returns one of the folders, for messages.
    fn any(&self) -> &Path {
        match self.above {
            UpperLayer::Nothing => &self.layers[0],
            UpperLayer::Changed { upper } | UpperLayer::Writable { upper, .. } => upper,
        }
    }

    fn error(&self, failure: Failure) -> RootfsError {
        let Failure { step, errno, detail } = failure;
        let first = self.layers.first().cloned().unwrap_or_default();
        RootfsError::Overlay { layers: self.layers.len(), first, step, errno, detail }
    }
}

/// Opens a folder without O_PATH, which fsconfig refuses before Linux 6.14.
fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Removes the mark that a volatile overlay leaves in its work folder, because the kernel refuses to mount
/// over it. Here it only means that this root was mounted before, for example by a server that has been
/// restarted since.
fn forget_volatile(work: &OwnedFd) -> Result<(), Errno> {
    let marks = [
        ("work/incompat/volatile/dirty", AtFlags::empty()),
        ("work/incompat/volatile", AtFlags::REMOVEDIR),
        ("work/incompat", AtFlags::REMOVEDIR),
    ];
    for (mark, how) in marks {
        match rustix::fs::unlinkat(work, mark, how) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn bind_read_only(path: &Path) -> Result<OwnedFd, Errno> {
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let attr = crate::sys::MountAttr {
        set: (MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV).bits().into(),
        propagation: MountPropagationFlags::PRIVATE.bits().into(),
        ..Default::default()
    };
    crate::sys::mount_setattr(std::os::fd::AsFd::as_fd(&tree), false, &attr)?;
    Ok(tree)
}

#[cfg(test)]
mod tests;
