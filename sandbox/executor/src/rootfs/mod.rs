//! A container's root file system: a detached overlay mount over its image's layers.
//!
//! Three ways, the best one that the kernel has: `lowerdir+` by descriptor (Linux 6.13), `lowerdir+`
//! by name (6.8), and mount(2) in a mount namespace of a passing thread. In all of them the layers
//! are named by descriptors or by their numbers, so that neither the 256 bytes of an fsconfig
//! value nor the page that mount(2) takes limit their paths or number.

mod classic;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};

/// The kernel's own limit (OVL_MAX_STACK).
const MAX_LAYERS: usize = 500;

/// Layers come from untrusted archives: features by which one file of a layer can stand for another
/// (redirects, indexes, metadata-only copies) are off, whatever the kernel's defaults are.
const OPTIONS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")];

/// The overlay never syncs its upper folder, neither when a process calls fsync nor at unmount. The
/// unmount is why: without this option it syncs the *whole* file system that the upper folder is on,
/// in the exit path of the container's last process (40 ms for 64 MB of dirty pages of any process;
/// seconds on a busy disk). The price is a root that may be incomplete after a crash of the machine,
/// which does no harm: containers do not outlive the boot, and a new container starts with an empty
/// upper folder. Volumes are not affected.
const VOLATILE: &str = "volatile";

/// Why a root file system could not be put together.
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
    #[error("overlay of {layers} layers, first {first}: {step}: {errno}{detail}", first = first.display())]
    Overlay { layers: usize, first: PathBuf, step: &'static str, errno: Errno, detail: String },
}

/// Stacks `layers` (top first) below the writable folder `upper`; `work` is an empty folder beside
/// it. The mount is in no mount table and is gone when the last descriptor, and the last container
/// that attached it, are.
///
/// # Errors
/// Names the layer, or the step that failed with the kernel's own message.
pub fn assemble(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, RootfsError> {
    build(&Parts { layers, writable: Some((upper, work)) })
}

/// The layers without anything writable above: for looking things up in an image.
///
/// # Errors
/// As [`assemble`].
pub fn read_only_view(layers: &[PathBuf]) -> Result<OwnedFd, RootfsError> {
    match layers {
        // An overlay needs two folders.
        [only] => bind_read_only(only).map_err(|errno| RootfsError::Layer { path: only.clone(), errno }),
        _ => build(&Parts { layers, writable: None }),
    }
}

struct Parts<'a> {
    layers: &'a [PathBuf],
    writable: Option<(&'a Path, &'a Path)>,
}

/// The parts of an overlay, opened.
struct Opened {
    layers: Vec<OwnedFd>,
    writable: Option<(OwnedFd, OwnedFd)>,
}

/// How layers are handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Descriptors,
    Names,
    Classic,
}

const WAYS: [Way; 3] = [Way::Descriptors, Way::Names, Way::Classic];

/// The first of [`WAYS`] that this kernel is not known to lack.
static FIRST_WAY: AtomicU8 = AtomicU8::new(0);

fn build(parts: &Parts<'_>) -> Result<OwnedFd, RootfsError> {
    match parts.layers.len() {
        0 => return Err(RootfsError::NoLayers),
        count if count > MAX_LAYERS => return Err(RootfsError::TooManyLayers { count, max: MAX_LAYERS }),
        _ => {}
    }
    let first = usize::from(FIRST_WAY.load(Ordering::Relaxed));
    let mut result = Err(RootfsError::NoLayers);
    for (index, way) in WAYS.iter().enumerate().skip(first) {
        result = build_by(parts, *way);
        match &result {
            // EINVAL is what a kernel says to a parameter that it does not know, and EOPNOTSUPP what one
            // before 6.5 says to a descriptor.
            Err(RootfsError::Overlay { errno: Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP, .. }) => {}
            Ok(_) => {
                FIRST_WAY.store(u8::try_from(index).unwrap_or(0), Ordering::Relaxed);
                break;
            }
            Err(_) => break,
        }
    }
    result
}

fn build_by(parts: &Parts<'_>, way: Way) -> Result<OwnedFd, RootfsError> {
    match way {
        Way::Descriptors | Way::Names => {
            let opened = parts.open()?;
            configure(&opened, way).map_err(|failure| parts.error(failure))
        }
        Way::Classic => classic::build(parts),
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
    fn open(&self) -> Result<Opened, RootfsError> {
        let layer = |path: &PathBuf| {
            open_folder(path).map_err(|errno| RootfsError::Layer { path: path.clone(), errno })
        };
        let folder = |path: &Path| {
            open_folder(path).map_err(|errno| RootfsError::Writable { path: path.to_owned(), errno })
        };
        let layers = self.layers.iter().map(layer).collect::<Result<_, _>>()?;
        let writable = match self.writable {
            Some((upper, work)) => Some((folder(upper)?, folder(work)?)),
            None => None,
        };
        if let Some((_, work)) = &writable {
            forget_volatile(work).map_err(|errno| RootfsError::Writable { path: self.work(), errno })?;
        }
        Ok(Opened { layers, writable })
    }

    fn work(&self) -> PathBuf {
        self.writable.map(|(_, work)| work.to_owned()).unwrap_or_default()
    }

    fn error(&self, failure: Failure) -> RootfsError {
        let Failure { step, errno, detail } = failure;
        let first = self.layers.first().cloned().unwrap_or_default();
        RootfsError::Overlay { layers: self.layers.len(), first, step, errno, detail }
    }
}

/// Not O_PATH, which fsconfig refuses before Linux 6.14.
fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A volatile overlay leaves a mark in its work folder, and the kernel refuses to mount over it. Here
/// it only means that this root was put together before in its life, such as by a server that has
/// been restarted since.
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

fn configure(parts: &Opened, way: Way) -> Result<OwnedFd, Failure> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(Failure::at("fsopen"))?;
    let set = |key: &'static str, fd: &OwnedFd| {
        let result = match way {
            Way::Descriptors => fsconfig_set_fd(&context, key, fd),
            Way::Names | Way::Classic => fsconfig_set_string(&context, key, name(fd)),
        };
        result.map_err(|errno| Failure { step: key, errno, detail: kernel_log(&context) })
    };
    let set_text = |key: &'static str, value: &str| {
        fsconfig_set_string(&context, key, value).map_err(|errno| Failure {
            step: key,
            errno,
            detail: kernel_log(&context),
        })
    };
    set_text("source", "crisp")?;
    for layer in &parts.layers {
        set("lowerdir+", layer)?;
    }
    if let Some((upper, work)) = &parts.writable {
        set("upperdir", upper)?;
        set("workdir", work)?;
        for (key, value) in OPTIONS {
            set_text(key, value)?;
        }
        fsconfig_set_flag(&context, VOLATILE).map_err(Failure::at(VOLATILE))?;
    }
    fsconfig_create(&context).map_err(|errno| Failure {
        step: "create",
        errno,
        detail: create_detail(&context, errno),
    })?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(Failure::at("fsmount"))
}

fn name(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What the kernel wrote about a failed configuration: one message per read.
fn kernel_log(context: &OwnedFd) -> String {
    let mut log = String::new();
    let mut buffer = [0u8; 512];
    while let Ok(n @ 1..) = rustix::io::read(context, &mut buffer) {
        log.push_str(if log.is_empty() { " (" } else { "; " });
        log.push_str(String::from_utf8_lossy(&buffer[..n]).trim_start_matches("e ").trim_end());
    }
    if !log.is_empty() {
        log.push(')');
    }
    log
}

/// Of refusals at creation the kernel often tells only its own log.
fn create_detail(context: &OwnedFd, errno: Errno) -> String {
    let log = kernel_log(context);
    if log.is_empty() && errno == Errno::INVAL {
        return " (dmesg says why; upper and work must be apart, on one file system that is no overlay itself)".to_owned();
    }
    log
}

fn bind_read_only(path: &Path) -> Result<OwnedFd, Errno> {
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let attr = crate::sys::MountAttr {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
        propagation: MountPropagationFlags::PRIVATE.bits().into(),
        ..Default::default()
    };
    crate::sys::mount_setattr(std::os::fd::AsFd::as_fd(&tree), false, &attr)?;
    Ok(tree)
}

#[cfg(test)]
mod tests;
