use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::container::config::Propagation;

/// An image with `/data/sub/file` and `/data/top`, and an empty volume.
struct Setup {
    _dir: tempfile::TempDir,
    volume: PathBuf,
    view: OwnedFd,
    mount: Mount,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, volume) = (dir.path().join("root"), dir.path().join("volume"));
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::create_dir(&volume).unwrap();
        fs::write(root.join("data/sub/file"), "text").unwrap();
        fs::write(root.join("data/top"), "top").unwrap();
        fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o1770)).unwrap();
        let view = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mount = Mount {
            container_path: "/data".into(),
            host_path: volume.clone(),
            image: None,
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::Private,
            mappings: None,
            options: Vec::new(),
        };
        Self { _dir: dir, volume, view, mount }
    }

    fn fill(&self) -> Result<(), Cause> {
        fill(&self.view, &self.mount, &Cancel::new())
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.volume.join(name)).ok()
    }

    fn draft(&self) -> PathBuf {
        copy_up::draft(&self.volume)
    }

    /// Leaves the draft of a server that was killed while it copied, or moved what it had copied.
    fn leave_draft(&self, moving: Option<&Moving>) {
        fs::create_dir_all(self.draft().join("files/late")).unwrap();
        fs::write(self.draft().join("files/top"), "of the draft").unwrap();
        fs::write(self.draft().join("files/late/file"), "late").unwrap();
        if let Some(moving) = moving {
            record::write(&self.draft().join("moving"), moving, Durability::Process).unwrap();
        }
    }

    fn is_done(&self) -> bool {
        !self.draft().exists() && !is_wanted(&self.mount)
    }
}

#[test]
fn an_empty_folder_is_filled_once_with_the_owner_and_mode_of_the_image() {
    let setup = Setup::new();
    assert!(is_wanted(&setup.mount));
    setup.fill().unwrap();
    assert_eq!(
        (setup.read("sub/file").as_deref(), setup.read("top").as_deref()),
        (Some("text"), Some("top"))
    );
    assert_eq!(fs::metadata(&setup.volume).unwrap().permissions().mode() & 0o7777, 0o1770);
    assert!(setup.is_done());
    fs::write(setup.volume.join("top"), "own").unwrap();
    setup.fill().unwrap();
    assert_eq!(setup.read("top").as_deref(), Some("own"), "it is not empty");
    assert!(setup.is_done());
}

#[test]
fn a_copy_that_fails_leaves_nothing_and_an_image_without_the_folder_changes_nothing() {
    let mut setup = Setup::new();
    fs::set_permissions(&setup.volume, fs::Permissions::from_mode(0o711)).unwrap();
    let cancel = Cancel::new();
    let draft = Draft::lock(&setup.volume, &cancel).unwrap();
    cancel.cancel();
    assert!(draft.copy(&setup.view, &setup.mount, &cancel).is_err());
    drop(draft);
    setup.mount.container_path = "/missing".into();
    setup.fill().unwrap();
    assert!(is_empty(&setup.volume).unwrap() && !setup.draft().exists());
    assert_eq!(fs::metadata(&setup.volume).unwrap().permissions().mode() & 0o7777, 0o711);
}

#[test]
fn the_files_of_a_volume_that_was_used_after_a_broken_copy_stay() {
    let setup = Setup::new();
    setup.leave_draft(None);
    fs::write(setup.volume.join("own"), "own").unwrap();
    assert!(is_wanted(&setup.mount), "the draft is removed");
    setup.fill().unwrap();
    assert_eq!(setup.read("own").as_deref(), Some("own"));
    assert_eq!((setup.read("top"), setup.read("late/file")), (None, None), "nothing is added");
    assert!(setup.is_done());
}

#[test]
fn a_broken_copy_begins_anew() {
    let setup = Setup::new();
    setup.leave_draft(None);
    setup.fill().unwrap();
    assert_eq!((setup.read("top").as_deref(), setup.read("late/file")), (Some("top"), None));
    assert!(setup.is_done());
}

#[test]
fn a_broken_move_goes_on_and_replaces_nothing() {
    let setup = Setup::new();
    setup.leave_draft(Some(&Moving::to(&open(&setup.volume).unwrap()).unwrap()));
    fs::write(setup.volume.join("top"), "own").unwrap();
    setup.fill().unwrap();
    assert_eq!(
        (setup.read("top").as_deref(), setup.read("late/file").as_deref()),
        (Some("own"), Some("late"))
    );
    assert!(setup.is_done());
}

#[test]
fn a_move_to_an_earlier_volume_of_the_name_does_not_go_on() {
    let setup = Setup::new();
    let now = Moving::to(&open(&setup.volume).unwrap()).unwrap();
    setup.leave_draft(Some(&Moving { inode: now.inode + 1, ..now }));
    setup.fill().unwrap();
    assert_eq!((setup.read("top").as_deref(), setup.read("late/file")), (Some("top"), None));
    assert!(setup.is_done());
}

#[test]
fn several_containers_with_one_empty_volume_wait_for_its_files() {
    let setup = Setup::new();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    setup.fill().unwrap();
                    setup.read("sub/file")
                })
            })
            .collect();
        for one in all {
            assert_eq!(one.join().unwrap().as_deref(), Some("text"));
        }
    });
    assert!(setup.is_done());
}

#[test]
fn a_container_that_waits_can_be_cancelled() {
    let setup = Setup::new();
    let _other = Draft::lock(&setup.volume, &Cancel::new()).unwrap();
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| fill(&setup.view, &setup.mount, &cancel));
        std::thread::sleep(PAUSE * 3);
        assert!(!waits.is_finished());
        cancel.cancel();
        assert!(matches!(waits.join().unwrap(), Err(Cause::Interrupted(_))));
    });
    assert!(is_empty(&setup.volume).unwrap());
}
