//! The mounts of a container.

use std::path::{Path, PathBuf};

use crisp_executor::compile::CREATE_SOURCE;
use crisp_executor::user_namespace::IdMappings;
use oci_spec::runtime::Mount;

use super::user;
use crate::container::config::{self, MountedImage, Propagation};

/// The inputs for the mounts.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub privileged: bool,
    pub readonly_rootfs: bool,
    /// The host's /dev/shm instead of the pod's.
    pub host_ipc: bool,
    /// The mappings of the pod's own user namespace.
    pub user: Option<&'a IdMappings>,
    /// Source and target of the pod's hosts, resolv.conf and hostname.
    pub pod_files: &'a [(PathBuf, &'static str)],
    /// Source and target of the image's VOLUMEs.
    pub volumes: &'a [(PathBuf, PathBuf)],
    pub requested: &'a [config::Mount],
}

/// All mounts, in the order in which they are attached: parents before children. A requested mount replaces
/// any other with the same target, and those below it that it [covers](covers).
#[must_use]
pub fn resolve(inputs: &Inputs<'_>) -> Vec<Mount> {
    let mut mounts = system(inputs);
    let access = if inputs.readonly_rootfs { "ro" } else { "rw" };
    // With the ids of the pod's user namespace, files keep their owners.
    let own = |source: &Path, target: &Path, access| match inputs.user {
        None => bind(source, target, &["rbind", "rprivate", access]),
        Some(_) => bind(source, target, &["rbind", "rprivate", access, "idmap"]),
    };
    mounts.extend(inputs.pod_files.iter().map(|(source, target)| own(source, Path::new(target), access)));
    mounts.extend(inputs.volumes.iter().map(|(source, target)| own(source, target, "rw")));
    mounts.retain(|mount| !inputs.requested.iter().any(|request| covers(request, mount.destination())));
    mounts.extend(inputs.requested.iter().map(requested));
    mounts.sort_by_key(|mount| mount.destination().components().count());
    mounts
}

/// Whether a requested mount replaces the default mount at `target`: at the same path, and below a requested
/// /dev or /sys, which usually are the host's and have their own file systems at /dev/pts, /dev/shm,
/// /sys/fs/cgroup. With bidirectional propagation, a mount attached below it would appear on the host.
fn covers(request: &config::Mount, target: &Path) -> bool {
    let path = &request.container_path;
    same_place(path, target)
        || target.starts_with(path)
            && (request.propagation == Propagation::Bidirectional
                || ["/dev", "/sys"].iter().any(|whole| same_place(path, Path::new(whole))))
}

/// `/a/b`, `/a//b/` and `/a/./b` are one path.
#[must_use]
pub fn same_place(a: &Path, b: &Path) -> bool {
    a.components().eq(b.components())
}

fn system(inputs: &Inputs<'_>) -> Vec<Mount> {
    let access = if inputs.privileged { "rw" } else { "ro" };
    let shm = if inputs.host_ipc {
        bind(Path::new("/dev/shm"), Path::new("/dev/shm"), &["rbind", "rprivate", "rw"])
    } else {
        mount("tmpfs", "shm", "/dev/shm", &["nosuid", "nodev", "noexec", "mode=1777", "size=65536k"])
    };
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    // A group that does not exist in the user namespace cannot own anything.
    let tty = inputs.user.is_none_or(|mappings| mappings.host_gid(5).is_some());
    vec![
        mount("proc", "proc", "/proc", &["nosuid", "nodev", "noexec"]),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "nodev", "noexec", access]),
        mount("devpts", "devpts", "/dev/pts", if tty { &pts } else { &pts[..5] }),
        mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "nodev", "noexec"]),
        shm,
        mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "nodev", "noexec", "relatime", access]),
    ]
}

fn mount(kind: &str, source: &str, target: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_destination(target.into())
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Mount {
    let mut mount = mount("bind", "", "", options);
    mount.set_source(Some(source.to_owned())).set_destination(target.to_owned());
    mount
}

fn requested(request: &config::Mount) -> Mount {
    let propagation = match request.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    // `rro` of the runtime-spec: read-only with everything mounted below.
    let access = match (request.readonly, request.recursive_readonly) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec!["rbind", propagation, access];
    options.extend(request.options.iter().map(String::as_str));
    if let Some(MountedImage { request: image, sub_path }) = &request.image {
        // Its layers already have the ids of the pod's user namespace.
        return bind(&Path::new(&image.image).join(sub_path), &request.container_path, &options);
    }
    // A hostPath volume whose folder does not exist yet; containerd and CRI-O create it too.
    options.push(CREATE_SOURCE);
    let mut mount = bind(&request.host_path, &request.container_path, &options);
    if let Some(mappings) = &request.mappings {
        mount
            .set_uid_mappings(Some(user::mappings(&mappings.uids)))
            .set_gid_mappings(Some(user::mappings(&mappings.gids)));
    }
    mount
}

/// The propagation of the root that is required for mounts below it to propagate to or from the host.
#[must_use]
pub fn root_propagation(requested: &[config::Mount]) -> Option<&'static str> {
    if requested.iter().any(|m| m.propagation == Propagation::Bidirectional) {
        Some("rshared")
    } else if requested.iter().any(|m| m.propagation == Propagation::HostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str) -> config::Mount {
        config::Mount {
            container_path: target.into(),
            host_path: "/srv".into(),
            image: None,
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::Private,
            mappings: None,
            options: Vec::new(),
        }
    }

    fn resolved(requested: &[config::Mount]) -> Vec<Mount> {
        resolve(&Inputs {
            privileged: false,
            readonly_rootfs: false,
            host_ipc: false,
            user: None,
            pod_files: &[("/pod/hosts".into(), "/etc/hosts")],
            volumes: &[("/c/volumes/0".into(), "/data".into())],
            requested,
        })
    }

    fn at<'a>(mounts: &'a [Mount], target: &str) -> Vec<&'a Mount> {
        mounts.iter().filter(|m| same_place(m.destination(), Path::new(target))).collect()
    }

    #[test]
    fn a_requested_mount_replaces_any_other_at_its_target() {
        for target in ["/etc/hosts", "/data/", "/dev//shm", "/sys"] {
            let mounts = resolved(&[request(target)]);
            let there = at(&mounts, target);
            assert_eq!(there.len(), 1, "{target}");
            assert_eq!(there[0].source().as_deref(), Some(Path::new("/srv")), "{target}");
        }
    }

    #[test]
    fn nothing_is_mounted_by_default_below_a_dev_or_sys_that_is_a_volume() {
        let mounts = resolved(&[request("/dev/"), request("/sys"), request("/dev/own")]);
        for target in ["/dev/pts", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup"] {
            assert!(at(&mounts, target).is_empty(), "{target}");
        }
        assert_eq!(at(&mounts, "/dev/own").len(), 1, "it was asked for");
        assert_eq!(at(&resolved(&[request("/dev/shm/x")]), "/dev/shm").len(), 1);
    }

    #[test]
    fn nothing_is_mounted_by_default_where_it_would_appear_on_the_host() {
        let bidirectional =
            |target| config::Mount { propagation: Propagation::Bidirectional, ..request(target) };
        let mounts = resolved(&[bidirectional("/etc"), bidirectional("/data")]);
        assert!(at(&mounts, "/etc/hosts").is_empty());
        assert_eq!(at(&resolved(&[request("/etc")]), "/etc/hosts").len(), 1, "it is the container's alone");
    }

    #[test]
    fn parents_come_before_children() {
        let mounts = resolved(&[request("/a/b/c"), request("/a")]);
        let place = |target: &str| mounts.iter().position(|m| m.destination() == Path::new(target)).unwrap();
        assert!(place("/a") < place("/a/b/c"));
        assert!(place("/dev") < place("/dev/pts"));
    }

    #[test]
    fn read_only_kinds() {
        let options = |readonly, recursive_readonly| {
            let request = config::Mount { readonly, recursive_readonly, ..request("/x") };
            at(&resolved(&[request]), "/x")[0].options().clone().unwrap()[2].clone()
        };
        assert_eq!(
            (options(false, false), options(true, false), options(true, true)),
            ("rw".into(), "ro".into(), "rro".into())
        );
    }
}
