use std::os::fd::AsFd;
use std::time::Instant;

use super::*;
use crate::in_root::{self, Kind};

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
            // As long as real ones are.
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

    fn build(&self, way: Way) -> Result<OwnedFd, RootfsError> {
        let (upper, work) = (self.folder.path().join("upper"), self.folder.path().join("work"));
        build_by(&Parts { layers: &self.layers, writable: Some((&upper, &work)) }, way)
    }
}

/// Those of [`WAYS`] that this kernel must have.
fn ways() -> Vec<Way> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-', '+', '\n']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    let since = |way| match way {
        Way::Descriptors => (6, 13),
        Way::Names => (6, 8),
        Way::Classic => (0, 0),
    };
    WAYS.into_iter().filter(|way| version >= since(*way)).collect()
}

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

#[test]
fn every_way_stacks_1_to_500_layers_outside_of_the_mount_table() {
    for (way, count) in ways().into_iter().flat_map(|way| [1, 2, 127, MAX_LAYERS].map(|count| (way, count))) {
        let Some(image) = Image::new(count) else { return };
        let before = mounts();
        let started = Instant::now();
        let root = image.build(way).unwrap();
        eprintln!("{way:?}, {count} layers: {:?}", started.elapsed());
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
        let view = read_only_view(&image.layers).unwrap();
        assert_eq!(in_root::read_file(&view, "/same", 10).unwrap().unwrap(), b"0");
        assert!(in_root::find_or_make(view.as_fd(), c"made", Kind::Folder).is_err());
    }
}

#[test]
fn errors_name_the_layer() {
    let Some(mut image) = Image::new(3) else { return };
    image.layers[1] = image.folder.path().join("gone");
    for way in WAYS {
        let error = image.build(way).unwrap_err().to_string();
        assert!(error.contains("layer") && error.contains("/gone: "), "{error}");
    }
    image.layers[1] = image.folder.path().join("same-as-a-file");
    std::fs::write(&image.layers[1], "").unwrap();
    let error = image.build(Way::Descriptors).unwrap_err().to_string();
    assert!(error.contains("same-as-a-file: "), "{error}");
    assert!(matches!(read_only_view(&[]), Err(RootfsError::NoLayers)));
    let many = vec![image.layers[0].clone(); 501];
    assert!(matches!(read_only_view(&many), Err(RootfsError::TooManyLayers { count: 501, .. })));
}

#[test]
fn the_kernel_is_quoted_when_it_refuses() {
    if !ways().contains(&Way::Descriptors) {
        crisp_skip::unsupported!(Kernel(
            "lowerdir+ for descriptors (6.13): before, it explains only in dmesg"
        ));
    }
    let Some(image) = Image::new(1) else { return };
    let upper = image.folder.path().join("upper");
    let parts = Parts { layers: &image.layers, writable: Some((&upper, &upper)) };
    let error = build_by(&parts, Way::Descriptors).unwrap_err().to_string();
    assert!(error.starts_with("overlay of 1 layers, first ") && error.contains("must be apart"), "{error}");
    let file = OwnedFd::from(std::fs::File::open(image.layers[0].join("same")).unwrap());
    let failure = configure(&Opened { layers: vec![file], writable: None }, Way::Descriptors).unwrap_err();
    assert_eq!((failure.step, failure.errno), ("lowerdir+", Errno::INVAL));
    assert!(failure.detail.contains("not a directory"), "{}", failure.detail);
}

#[test]
fn a_root_can_be_put_together_again() {
    let Some(image) = Image::new(2) else { return };
    for way in ways().into_iter().chain(ways()) {
        let root = image.build(way).unwrap();
        in_root::find_or_make(root.as_fd(), c"x", Kind::Folder).unwrap();
    }
}

#[test]
fn letting_go_of_a_root_does_not_write_the_disk_out() {
    let Some(image) = Image::new(2) else { return };
    let (upper, work) = (image.folder.path().join("upper"), image.folder.path().join("work"));
    let root = assemble(&image.layers, &upper, &work).unwrap();
    in_root::find_or_make(root.as_fd(), c"x", Kind::Folder).unwrap();
    std::fs::write(image.folder.path().join("dirty"), vec![1u8; 64 << 20]).unwrap();
    let started = Instant::now();
    drop(root);
    eprintln!("drop, dirty: {:?}", started.elapsed());
    let root = assemble(&image.layers, &upper, &work).unwrap();
    let started = Instant::now();
    drop(root);
    eprintln!("drop, clean: {:?}", started.elapsed());
    assert!(image.folder.path().join("work/work/incompat/volatile").is_dir());
}
