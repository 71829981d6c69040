use super::*;

impl Volumes {
    /// At once, without a deadline.
    pub fn prepare(volumes: &[Volume], folder: PathBuf) -> Result<Self, VolumeError> {
        Self::prepare_with(volumes, folder, |_| {})
    }
}

#[test]
fn a_folder_of_the_host_that_a_container_mounted_into_a_volume_is_not_deleted() {
    crisp_skip::needs!();
    let (run, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(host.path().join("precious"), "x").unwrap();
    let source = VolumeSource::EmptyDir { memory: false, size: None };
    let volumes = Volumes::prepare(&volume(source), run.path().join("a b")).unwrap();
    let target = volumes.path("v").unwrap().join("in");
    fs::create_dir(&target).unwrap();
    rustix::mount::mount_bind(host.path(), &target).unwrap();
    volumes.remove();
    assert!(host.path().join("precious").exists());
    assert!(!run.path().join("a b").exists());
}

fn volume(source: VolumeSource) -> [Volume; 1] {
    [Volume { name: "v".into(), source }]
}

#[test]
fn an_empty_folder_is_for_everybody_and_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("volumes");
    let volumes =
        Volumes::prepare(&volume(VolumeSource::EmptyDir { memory: false, size: None }), below.clone())
            .unwrap();
    let path = volumes.path("v").unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o777);
    fs::write(path.join("x"), "y").unwrap();
    volumes.remove();
    assert!(!below.exists());
}

#[test]
fn a_volume_that_is_there_already_is_refused_and_keeps_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("volumes");
    let empty = || VolumeSource::EmptyDir { memory: false, size: None };
    let first = Volumes::prepare(&volume(empty()), below.clone()).unwrap();
    fs::write(first.path("v").unwrap().join("precious"), "x").unwrap();
    let second =
        [Volume { name: "new".into(), source: empty() }, Volume { name: "v".into(), source: empty() }];
    Volumes::prepare(&second, below.clone()).unwrap_err();
    assert!(below.join("v/precious").exists() && !below.join("new").exists());
    first.remove();
}

#[tokio::test]
async fn a_path_on_a_dead_file_system_costs_a_deadline() {
    crisp_skip::needs!();
    if !Path::new("/dev/fuse").exists() {
        crisp_skip::unsupported!(Device("/dev/fuse"));
    }
    let folder = tempfile::tempdir().unwrap();
    let dead = DeadFileSystem::mount(&folder.path().join("dead"));
    let prepare = async |kind| {
        let source = VolumeSource::HostPath { path: folder.path().join("dead/x"), kind };
        let below = folder.path().join("volumes");
        Volumes::prepare_within(Duration::from_millis(100), &volume(source), below).await
    };
    let error = prepare(HostPathKind::Directory).await.unwrap_err().to_string();
    assert!(error.contains("volume v") && error.contains("does not answer"), "{error}");
    prepare(HostPathKind::Any).await.unwrap();
    drop(dead);
}

/// A FUSE file system whose server never answers, until it is dropped.
struct DeadFileSystem(PathBuf, Option<fs::File>);

impl DeadFileSystem {
    fn mount(on: &Path) -> Self {
        use std::os::fd::AsRawFd as _;
        fs::create_dir(on).unwrap();
        let server = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        mount("dead", on, "fuse", MountFlags::empty(), Some(&*data)).unwrap();
        Self(on.to_owned(), Some(server))
    }
}

impl Drop for DeadFileSystem {
    fn drop(&mut self) {
        // What waits for it gets an error then.
        self.1 = None;
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_folder_in_memory_keeps_its_limit() {
    crisp_skip::needs!();
    let folder = tempfile::tempdir().unwrap();
    let source = VolumeSource::EmptyDir { memory: true, size: Some(1 << 16) };
    let volumes = Volumes::prepare(&volume(source), folder.path().join("volumes")).unwrap();
    let file = volumes.path("v").unwrap().join("x");
    assert!(fs::write(&file, vec![0; 1 << 15]).is_ok());
    assert!(fs::write(&file, vec![0; 1 << 17]).is_err());
    volumes.remove();
    assert!(!folder.path().join("volumes").exists());
}

#[test]
fn a_host_path_of_another_kind_is_refused_and_none_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &Path, kind| {
        let source = VolumeSource::HostPath { path: path.to_owned(), kind };
        Volumes::prepare(&volume(source), folder.path().join("volumes")).map(|v| v.remove())
    };
    at(folder.path(), HostPathKind::Directory).unwrap();
    assert!(folder.path().exists());
    let error = at(folder.path(), HostPathKind::File).unwrap_err().to_string();
    assert!(error.contains("volume v") && error.contains("not a file"), "{error}");
    assert!(at(&folder.path().join("nothing"), HostPathKind::Socket).is_err());
    at(&folder.path().join("new/folder"), HostPathKind::DirectoryOrCreate).unwrap();
    at(&folder.path().join("new/file"), HostPathKind::FileOrCreate).unwrap();
    assert!(folder.path().join("new/file").is_file());
}
