use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};

use rustix::mount::{MountFlags, mount};

use super::*;

use super::super::manifest::{HostPathKind, parse};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: web}}\nspec:\n  containers: [{name: a, image: b}]\n";

fn request(volumes: &[Volume], folder: PathBuf) -> VolumeRequest {
    let mut pod = parse("p", POD).unwrap().pods.remove(0).pod;
    pod.volumes = volumes.to_vec();
    let fields = PodFields::of(&pod, "u");
    let named = folder.with_file_name("named");
    VolumeRequest { pod, objects: Default::default(), fields, folder, named, existing: Existing::Refuse }
}

impl Volumes {
    /// Makes them in this thread without a deadline.
    pub fn prepare(volumes: &[Volume], folder: PathBuf) -> Result<Self, VolumeError> {
        Self::prepare_with(&request(volumes, folder), |_| true)
    }

    fn remove(&self) {
        remove_folder(&self.folder).unwrap();
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
        let below = folder.path().join(format!("{kind:?}"));
        Volumes::prepare_within(Duration::from_millis(100), request(&volume(source), below)).await
    };
    let error = prepare(HostPathKind::Directory).await.unwrap_err().to_string();
    assert!(error.contains("volume v") && error.contains("does not answer"), "{error}");
    prepare(HostPathKind::Any).await.unwrap();
    drop(dead);
}

/// The undo of an abandoned try must not remove what the next one has made.
#[tokio::test]
async fn a_try_waits_for_an_earlier_one_that_was_given_up() {
    crisp_skip::needs!();
    if !Path::new("/dev/fuse").exists() {
        crisp_skip::unsupported!(Device("/dev/fuse"));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut dead = DeadFileSystem::mount(&folder.path().join("dead"));
    let on_host =
        VolumeSource::HostPath { path: folder.path().join("dead/x"), kind: HostPathKind::DirectoryOrCreate };
    let work = VolumeSource::EmptyDir { memory: false, size: None };
    let volumes =
        [("work", work), ("host", on_host)].map(|(name, source)| Volume { name: name.into(), source });
    let mut request = request(&volumes, folder.path().join("pod/volumes"));
    request.existing = Existing::Keep;
    let prepare = |seconds| Volumes::prepare_within(Duration::from_millis(seconds), request.clone());
    let error = prepare(100).await.unwrap_err().to_string();
    assert!(error.contains("volume host: the file system does not answer within"), "{error}");
    // From here on a new thread would find a folder that answers.
    rustix::mount::unmount(&dead.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    for _ in 0..3 {
        let error = prepare(100).await.unwrap_err().to_string();
        assert!(error.contains("an earlier try still waits"), "{error}");
    }
    let next = tokio::spawn(prepare(60_000));
    dead.1 = None;
    let volumes = next.await.unwrap().unwrap();
    assert!(volumes.path("work").unwrap().is_dir() && folder.path().join("dead/x").is_dir());
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
        // Pending requests get an error then.
        self.1 = None;
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
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

/// As after the death of a server.
#[test]
fn a_volume_that_was_half_made_is_made_again() {
    crisp_skip::needs!();
    let folder = tempfile::tempdir().unwrap();
    let claim = VolumeSource::Claim { name: "data".into(), read_only: false };
    let work = VolumeSource::EmptyDir { memory: false, size: None };
    let volumes =
        [("kept", claim), ("work", work)].map(|(name, source)| Volume { name: name.into(), source });
    let mut request = request(&volumes, folder.path().join("volumes"));
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n---\n";
    request.objects = std::sync::Arc::new(parse("m", &format!("{claim}{POD}")).unwrap().objects);
    request.existing = Existing::Keep;
    for path in [&request.folder, &request.named] {
        fs::create_dir(path).unwrap();
    }
    for path in [request.folder.join("work"), request.named.join("data")] {
        fs::DirBuilder::new().mode(0o700).create(layout::unfinished(&path)).unwrap();
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    for times in 0..2 {
        let made = Volumes::prepare_with(&request, |_| true).unwrap();
        let modes = ["kept", "work"].map(|name| mode(made.path(name).unwrap()));
        assert_eq!(modes, [0o777, 0o777], "{times}");
    }
    // A group gets access to the existing volume.
    fs::set_permissions(request.named.join("data"), fs::Permissions::from_mode(0o700)).unwrap();
    request.pod.security.fs_group = Some(3000);
    let made = Volumes::prepare_with(&request, |_| true).unwrap();
    let kept = fs::metadata(made.path("kept").unwrap()).unwrap();
    assert_eq!((kept.mode() & 0o7777, kept.gid()), (0o2770, 3000));
    for folder in [&request.folder, &request.named] {
        let names = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name());
        assert_eq!(names.count(), 1);
    }
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {a.conf: "one", b.conf: "two"}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {password: hunter2}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}}
spec:
  securityContext: {fsGroup: 3000}
  containers: [{name: a, image: b, resources: {limits: {memory: 64Mi}}}]
  volumes:
  - {name: plain, configMap: {name: c, defaultMode: 0600}}
  - name: chosen
    configMap: {name: c, items: [{key: a.conf, path: deep/er/x, mode: 0400}]}
  - {name: missing, configMap: {name: none, optional: true}}
  - {name: password, secret: {secretName: s}}
  - {name: work, emptyDir: {}}
  - {name: kept, persistentVolumeClaim: {claimName: data}}
  - name: mixed
    projected:
      sources:
      - configMap: {name: c}
      - secret: {name: s, items: [{key: password, path: b.conf}]}
      - downwardAPI:
          items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: memory, resourceFieldRef: {containerName: a, resource: limits.memory, divisor: 1Mi}}
"#;

#[test]
fn files_come_from_config_maps_secrets_and_the_pod() {
    crisp_skip::needs!();
    let folder = tempfile::tempdir().unwrap();
    let mut manifests = parse("m", OBJECTS).unwrap();
    let pod = manifests.pods.remove(0).pod;
    let mut request = request(&pod.volumes, folder.path().join("v"));
    request.pod = pod;
    request.fields = PodFields::of(&request.pod, "u");
    request.objects = std::sync::Arc::new(manifests.objects);
    let volumes = Volumes::prepare_with(&request, |_| true).unwrap();
    let at = |path: &str| request.folder.join(path);
    let text = |path: &str| fs::read_to_string(at(path)).unwrap();
    assert_eq!((text("plain/a.conf"), text("plain/b.conf")), ("one".into(), "two".into()));
    assert_eq!(text("chosen/deep/er/x"), "one");
    assert!(!at("chosen/a.conf").exists() && fs::read_dir(at("missing")).unwrap().count() == 0);
    assert_eq!(text("mixed/b.conf"), "hunter2", "a later source replaces an earlier one");
    assert_eq!((text("mixed/labels"), text("mixed/memory")), ("app=\"web\"".into(), "64".into()));
    let state = |path: &str| fs::metadata(at(path)).map(|m| (m.mode() & 0o7777, m.gid())).unwrap();
    assert_eq!((state("plain/a.conf"), state("chosen/deep/er/x")), ((0o640, 3000), (0o440, 3000)));
    assert_eq!((state("work"), state("plain")), ((0o2777, 3000), (0o2775, 3000)));
    assert!(is_mount(&at("password")).unwrap() && !is_mount(&at("plain")).unwrap(), "no secret on a disk");
    let kept = volumes.path("kept").unwrap().to_owned();
    fs::write(kept.join("x"), "y").unwrap();
    // The pod runs again: its files stay, and projected files are written again.
    fs::write(at("work/x"), "y").unwrap();
    request.existing = Existing::Keep;
    Volumes::prepare_with(&request, |_| true).unwrap();
    assert_eq!((text("work/x"), text("password/password")), ("y".into(), "hunter2".into()));
    volumes.remove();
    assert!(kept.join("x").exists() && !request.folder.exists());
    // Without a document the claim uses an existing folder; other claims fail.
    request.objects = Default::default();
    let claim = |name: &str| VolumeSource::Claim { name: name.into(), read_only: false };
    request.pod.volumes = volume(claim("data")).to_vec();
    Volumes::prepare_with(&request, |_| true).unwrap();
    request.pod.volumes = volume(claim("other")).to_vec();
    let error = Volumes::prepare_with(&request, |_| true).unwrap_err().to_string();
    assert!(error.contains("no PersistentVolumeClaim \"other\""), "{error}");
}
