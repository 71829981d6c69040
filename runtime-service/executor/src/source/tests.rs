use std::os::unix::fs::symlink;

use super::*;
use crate::inroot;

const SOON: Duration = Duration::from_secs(5);

fn folder() -> Option<tempfile::TempDir> {
    if crate::skip::without_root() {
        return None;
    }
    Some(tempfile::tempdir().unwrap())
}

#[test]
fn folders_files_and_links_are_told_apart() {
    let Some(folder) = folder() else { return };
    std::fs::write(folder.path().join("file"), "x").unwrap();
    symlink("file", folder.path().join("link")).unwrap();
    for (name, file) in [("file", true), ("link", true), (".", false)] {
        assert_eq!(open(&folder.path().join(name), Options::default(), SOON).unwrap().file, file, "{name}");
    }
}

#[test]
fn a_missing_path_is_named_with_its_position() {
    let Some(folder) = folder() else { return };
    let gone = folder.path().join("gone");
    let requests = vec![(folder.path().to_owned(), Options::default()), (gone.clone(), Options::default())];
    let (index, error) = open_all(requests, SOON).unwrap_err();
    assert_eq!(index, 1);
    assert_eq!(error.to_string(), format!("host path {gone:?} does not exist"));
}

#[test]
fn read_only_is_kept_and_the_host_side_is_not_touched() {
    let Some(folder) = folder() else { return };
    for options in [
        Options { readonly: true, ..Options::default() },
        Options { recursive: true, recursive_readonly: true, ..Options::default() },
    ] {
        let source = open(folder.path(), options, SOON).unwrap();
        assert!(inroot::mkdir_all(&source.mount, "x").is_err());
    }
    let source = open(folder.path(), Options::default(), SOON).unwrap();
    inroot::mkdir_all(&source.mount, "x").unwrap();
    assert!(folder.path().join("x").is_dir());
}

#[test]
fn propagation_from_a_private_mount_is_refused() {
    let Some(_folder) = folder() else { return };
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // /proc is a mount of its own everywhere.
    let proc = table.lines().find(|line| line.contains(" /proc rw")).unwrap();
    let result = open(
        Path::new("/proc"),
        Options { propagation: Propagation::Bidirectional, ..Options::default() },
        SOON,
    );
    match result {
        Ok(_) => assert!(proc.contains(" shared:")),
        Err(error) => {
            assert!(!proc.contains(" shared:"));
            assert!(error.to_string().contains("not shared"), "{error}");
        }
    }
}

#[test]
fn a_path_that_never_answers_ends_at_the_deadline() {
    let deadline = Duration::from_millis(50);
    let path = PathBuf::from("/nonexistent-and-slow");
    // Plays the stuck thread: what is marked busy for long enough fails at once.
    STUCK.0.lock().unwrap().insert(path.clone(), Instant::now() - Duration::from_secs(90));
    let started = Instant::now();
    let error = open(&path, Options::default(), deadline).unwrap_err();
    assert!(matches!(error, SourceError::StillStuck { .. }), "{error}");
    assert!(started.elapsed() < deadline);
    assert!(stuck() >= 1);
    STUCK.done(&path);
    assert!(matches!(open(&path, Options::default(), SOON), Err(SourceError::Missing { .. })));
    // No time at all is a deadline that has passed, whatever the path does.
    let error = open(&path, Options::default(), Duration::ZERO);
    assert!(matches!(error, Err(SourceError::Deadline { .. } | SourceError::Missing { .. })));
}
