use std::os::fd::AsFd;
use std::time::Instant;

use super::*;
use crate::in_root::{self, Kind};
use crate::user_namespace::{IdMappings, IdRange, UserNamespace};

struct Image {
    folder: tempfile::TempDir,
    layers: Vec<PathBuf>,
}

impl Image {
    /// Layer n (0 = top) has the file `nN` and its own version of `same`.
    fn new(count: usize) -> Option<Self> {
        crisp_skip::needs!();
        let folder = tempfile::tempdir().unwrap();
        let mut layers = Vec::new();
        for n in 0..count {
            // As long as the names of real layers.
            let layer = folder.path().join(format!("{n:064}"));
            std::fs::create_dir(&layer).unwrap();
            std::fs::write(layer.join("same"), n.to_string()).unwrap();
            std::fs::write(layer.join(format!("n{n}")), "").unwrap();
            layers.push(layer);
        }
        for name in ["upper", "work"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Some(Self { folder, layers })
    }

    fn build(&self, api: OverlayApi) -> Result<OwnedFd, RootfsError> {
        let (upper, work) = (self.folder.path().join("upper"), self.folder.path().join("work"));
        let above = UpperLayer::Writable { upper: &upper, work: &work };
        build_by(&Parts { layers: &self.layers, above, user: None }, api)
    }
}

/// The APIs of [`OVERLAY_APIS`] that this kernel must have.
fn apis() -> Vec<OverlayApi> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-', '+', '\n']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    let since = |api| match api {
        OverlayApi::Descriptors => (6, 13),
        OverlayApi::Names => (6, 8),
        OverlayApi::Classic => (0, 0),
    };
    OVERLAY_APIS.into_iter().filter(|api| version >= since(*api)).collect()
}

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

#[test]
fn every_way_stacks_1_to_500_layers_outside_of_the_mount_table() {
    for (api, count) in apis().into_iter().flat_map(|api| [1, 2, 127, MAX_LAYERS].map(|count| (api, count))) {
        let Some(image) = Image::new(count) else { return };
        let before = mounts();
        let started = Instant::now();
        let root = image.build(api).unwrap();
        eprintln!("{api:?}, {count} layers: {:?}", started.elapsed());
        assert!(mounts() <= before);
        assert_eq!(in_root::read_file(&root, "same", 10).unwrap().unwrap(), b"0");
        in_root::find(&root, &*format!("n{}", count - 1)).unwrap();
        in_root::find_or_make(root.as_fd(), c"/made/here", Kind::Folder).unwrap();
        assert!(image.folder.path().join("upper/made/here").is_dir());
    }
}

#[test]
fn a_view_is_read_only() {
    for count in [1, 3] {
        let Some(image) = Image::new(count) else { return };
        let view = read_only_view(&image.layers, None).unwrap();
        assert_eq!(in_root::read_file(&view, "/same", 10).unwrap().unwrap(), b"0");
        assert!(in_root::find_or_make(view.as_fd(), c"made", Kind::Folder).is_err());
    }
}

#[test]
fn errors_name_the_layer() {
    let Some(mut image) = Image::new(3) else { return };
    image.layers[1] = image.folder.path().join("gone");
    for api in OVERLAY_APIS {
        let error = image.build(api).unwrap_err().to_string();
        assert!(error.contains("layer") && error.contains("/gone: "), "{error}");
    }
    image.layers[1] = image.folder.path().join("same-as-a-file");
    std::fs::write(&image.layers[1], "").unwrap();
    let error = image.build(OverlayApi::Descriptors).unwrap_err().to_string();
    assert!(error.contains("same-as-a-file: "), "{error}");
    assert!(matches!(read_only_view(&[], None), Err(RootfsError::NoLayers)));
    let many = vec![image.layers[0].clone(); 501];
    assert!(matches!(read_only_view(&many, None), Err(RootfsError::TooManyLayers { count: 501, .. })));
}

#[test]
fn the_kernel_is_quoted_when_it_refuses() {
    if !apis().contains(&OverlayApi::Descriptors) {
        crisp_skip::unsupported!(Kernel(
            "lowerdir+ for descriptors (6.13): before, it explains only in dmesg"
        ));
    }
    let Some(image) = Image::new(1) else { return };
    let upper = image.folder.path().join("upper");
    let parts = Parts {
        layers: &image.layers,
        above: UpperLayer::Writable { upper: &upper, work: &upper },
        user: None,
    };
    let error = build_by(&parts, OverlayApi::Descriptors).unwrap_err().to_string();
    assert!(error.starts_with("overlay of 1 layers, first ") && error.contains("must be apart"), "{error}");
    let file = OwnedFd::from(std::fs::File::open(image.layers[0].join("same")).unwrap());
    let failure = overlay::configure(
        &Opened { layers: vec![file], writable: None, _mount: None },
        OverlayApi::Descriptors,
    )
    .unwrap_err();
    assert_eq!((failure.step, failure.errno), ("lowerdir+", Errno::INVAL));
    assert!(failure.detail.contains("not a directory"), "{}", failure.detail);
}

#[test]
fn a_root_can_be_put_together_again() {
    let Some(image) = Image::new(2) else { return };
    for api in apis().into_iter().chain(apis()) {
        let root = image.build(api).unwrap();
        in_root::find_or_make(root.as_fd(), c"x", Kind::Folder).unwrap();
    }
}

#[test]
fn a_root_is_volatile_so_that_its_end_does_not_write_the_disk_out() {
    let Some(image) = Image::new(2) else { return };
    let (upper, work) = (image.folder.path().join("upper"), image.folder.path().join("work"));
    let root = assemble(&image.layers, &upper, &work, None).unwrap();
    in_root::find_or_make(root.as_fd(), c"x", Kind::Folder).unwrap();
    assert!(image.folder.path().join("work/work/incompat/volatile").is_dir());
}

fn user_namespace() -> UserNamespace {
    let range = IdRange { container: 0, host: 700_000, length: 65_536 };
    UserNamespace::new(IdMappings { uids: vec![range], gids: vec![range] }).unwrap()
}

/// Returns uid and gid on the host.
fn owner(root: &OwnedFd, path: &str) -> (u32, u32) {
    let stat = rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    (stat.st_uid, stat.st_gid)
}

#[test]
fn files_of_layers_belong_to_users_of_a_namespace() {
    for count in [1, 2, 127] {
        let Some(image) = Image::new(count) else { return };
        let (user, layer) = (user_namespace(), &image.layers[count - 1]);
        for (name, id) in [("by-app", 1000), ("by-none", 70_000)] {
            std::fs::write(layer.join(name), "").unwrap();
            std::os::unix::fs::chown(layer.join(name), Some(id), Some(id + 1)).unwrap();
        }
        let (upper, work) = (image.folder.path().join("upper"), image.folder.path().join("work"));
        let before = mounts();
        let started = Instant::now();
        let root = assemble(&image.layers, &upper, &work, Some(user.as_fd())).unwrap();
        eprintln!("{count} layers: {:?}", started.elapsed());
        assert!(mounts() <= before);
        let view = read_only_view(&image.layers, Some(user.as_fd())).unwrap();
        std::fs::write(upper.join("by-user"), "").unwrap();
        std::os::unix::fs::chown(upper.join("by-user"), Some(701_002), Some(700_000)).unwrap();
        let changed = read_only(&image.layers, &upper, Some(user.as_fd())).unwrap();
        assert_eq!(
            owner(&changed, "by-user"),
            (701_002, 700_000),
            "what is changed is the namespace's already"
        );
        for root in [&root, &view, &changed] {
            assert_eq!(owner(root, "same"), (700_000, 700_000));
            assert_eq!(owner(root, "by-app"), (701_000, 701_001));
            assert_eq!(owner(root, "by-none"), (65_534, 65_534), "it exists nowhere in the namespace");
        }
        assert!(in_root::find_or_make(view.as_fd(), c"made", Kind::Folder).is_err());
        let plain = std::fs::metadata(layer.join("by-app")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&plain), 1000, "the layer is for all pods");
    }
}

#[test]
fn the_old_way_maps_ids_too() {
    let Some(image) = Image::new(3) else { return };
    let (upper, work) = (image.folder.path().join("upper"), image.folder.path().join("work"));
    let user = user_namespace();
    let above = UpperLayer::Writable { upper: &upper, work: &work };
    let parts = Parts { layers: &image.layers, above, user: Some(user.as_fd()) };
    let root = build_by(&parts, OverlayApi::Classic).unwrap();
    assert_eq!(owner(&root, "same"), (700_000, 700_000));
    in_root::find_or_make(root.as_fd(), c"made", Kind::Folder).unwrap();
    assert!(upper.join("made").is_dir());
}

#[test]
fn a_file_system_without_mapped_ids_is_named_with_what_to_do() {
    crisp_skip::needs!();
    let user = user_namespace();
    let layers = [PathBuf::from("/proc/sys"), PathBuf::from("/proc/bus")];
    for layers in [&layers[..], &layers[..1]] {
        let error = read_only_view(layers, Some(user.as_fd())).unwrap_err().to_string();
        assert!(error.starts_with("layers in /proc") && error.contains("hostUsers: true"), "{error}");
    }
}

#[test]
fn a_part_of_a_view_is_a_mount_of_its_own() {
    let Some(image) = Image::new(2) else { return };
    let lower = &image.layers[1];
    std::fs::create_dir_all(lower.join("sub/deep")).unwrap();
    std::fs::write(lower.join("sub/deep/file"), "text").unwrap();
    std::os::unix::fs::symlink("/sub/deep", lower.join("link")).unwrap();
    let view = read_only_view(&image.layers, None).unwrap();
    for part in [part_of(&view, "link").unwrap(), attached(&image, "sub/deep")] {
        let read = |path: &str| in_root::read_file(&part, path, 100).unwrap();
        assert_eq!(read("file").as_deref(), Some(&b"text"[..]));
        assert_eq!(read("../../same"), None, "nothing above it can be reached");
        assert!(in_root::find_or_make(part.as_fd(), c"made", Kind::Folder).is_err());
    }
    let file = part_of(&view, "sub/deep/file").unwrap();
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 4);
    let missing = part_of(&view, "sub/none").unwrap_err();
    assert!(matches!(&missing, PartError::Path(path) if path.is_missing()), "{missing}");
}

/// Mounts the part as on a kernel before 6.15.
fn attached(image: &Image, path: &str) -> OwnedFd {
    part::attached(&read_only_view(&image.layers, None).unwrap(), path).unwrap()
}

#[test]
fn mount_points_are_made_like_those_of_a_start_and_not_through_links() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let Some(image) = Image::new(1) else { return };
    std::fs::create_dir(image.layers[0].join("etc")).unwrap();
    symlink("/data/hostname", image.layers[0].join("etc/hostname")).unwrap();
    symlink("/data", image.layers[0].join("proc")).unwrap();
    let root = image.build(OverlayApi::Classic).unwrap();
    let make = |path: &str, kind| make_mount_point(&root, Path::new(path), kind);
    assert_eq!(make("/etc/hosts", Kind::File), Ok(()));
    assert_eq!(make("/etc/hosts", Kind::File), Ok(()), "it is there");
    assert_eq!(make("/dev", Kind::Folder), Ok(()));
    assert_eq!(make("/etc/hostname", Kind::File), Err(Errno::LOOP));
    assert_eq!(make("/proc", Kind::Folder), Err(Errno::LOOP));
    let upper = image.folder.path().join("upper");
    let mode = |path: &str| std::fs::metadata(upper.join(path)).unwrap().permissions().mode();
    assert_eq!((mode("etc/hosts"), mode("dev")), (0o100_644, 0o040_755));
    let mut made: Vec<_> = std::fs::read_dir(&upper).unwrap().map(|e| e.unwrap().file_name()).collect();
    made.sort();
    assert_eq!(made, ["dev", "etc"]);
}
