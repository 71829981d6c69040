//! Layers with running containers are protected, and damaged ones are replaced.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crisp_image_service::DiffId;
use crisp_image_service::store::{Condition, StoreError};
use crisp_operation::fault::{Fault, arm};

use crate::archive::Archive;
use crate::fixture::{Fixture, count, image};

fn archive() -> Archive {
    Archive::new().dir("d").file("d/f", "content").file("d/g", "more").symlink("l", "d/f")
}

/// A synced image of one layer.
fn with_image() -> (Fixture, DiffId) {
    let fixture = Fixture::new();
    let layer = fixture.ingest(archive()).unwrap();
    fixture.store.commit_image(image("app:v1", &[&layer], "x")).unwrap();
    fixture.store.sync().unwrap();
    (fixture, layer)
}

fn record_of(fixture: &Fixture, layer: &DiffId) -> PathBuf {
    fixture.layer(layer).with_file_name("layer.json")
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// As if the machine had been started again since.
fn reboot(fixture: &Fixture, layer: &DiffId) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    edit(&record_of(fixture, layer), boot.trim(), "an-earlier-boot");
}

pub fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_restart_keeps_the_layers_of_a_container_whose_image_was_removed() {
    let (fixture, layer) = with_image();
    reboot(&fixture, &layer);
    let fixture = fixture.reopen();
    let image = fixture.store.find("app:v1").unwrap();
    let lease = fixture.store.lease(&image.diff_ids).unwrap();
    let path = lease.layer_paths()[0].clone();
    fixture.store.remove_image(&image.id).unwrap();
    // The server dies and knows of no lease any more.
    std::mem::forget(lease);
    let Fixture { folder, store } = fixture;
    let copy = folder.path().join("after");
    assert!(
        std::process::Command::new("cp")
            .args(["-a".as_ref(), folder.path().join("root").as_os_str(), copy.as_os_str()])
            .status()
            .unwrap()
            .success()
    );
    let path = copy.join(path.strip_prefix(folder.path().join("root")).unwrap());
    drop(store);
    let store = crate::fixture::open(&copy);
    assert!(path.join("d/f").exists(), "a container runs on it");
    // Recovery takes the leases of the containers, one after the other.
    let other = store.lease(&image.diff_ids).unwrap();
    let lease = store.lease(&image.diff_ids).unwrap();
    drop(other);
    store.collect_unused().unwrap();
    assert!(path.join("d/f").exists());
    store.start_collection().unwrap();
    assert!(path.join("d/f").exists());
    assert!(!store.has_layer(&layer), "no pull uses it unchecked: it may not have reached the disk");
    assert_eq!(store.check_layers(std::slice::from_ref(&layer)), []);
    assert!(store.has_layer(&layer));
    drop(lease);
    wait("the layer goes with its last lease", || !path.exists());
}

#[test]
fn before_recovery_no_lease_that_ends_takes_layers_with_it() {
    let fixture = Fixture::new();
    let layer = fixture.ingest(archive()).unwrap();
    let fixture = fixture.restart();
    drop(fixture.store.lease(std::slice::from_ref(&layer)).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    assert!(fixture.layer(&layer).join("d/f").exists(), "another container may be about to lease it");
}

#[test]
fn a_layer_whose_record_cannot_be_read_is_set_aside_with_its_content() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("empty", |record| fs::write(record, "").unwrap()),
        ("missing", |record| fs::remove_file(record).unwrap()),
        ("newer", |record| edit(record, "\"version\":1", "\"version\":2")),
        ("another's", |record| edit(record, "\"diff_id\":\"sha256:", "\"diff_id\":\"sha256:00")),
    ];
    for (what, damage) in damages {
        let (fixture, layer) = with_image();
        damage(&record_of(&fixture, &layer));
        let fixture = fixture.reopen();
        assert!(!fixture.store.has_layer(&layer), "{what}");
        fixture.assert_no_leftovers();
        let bad = fixture.root().join("layers/.bad");
        let kept = fs::read_dir(&bad).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read(kept.join("fs/d/f")).unwrap(), b"content", "{what}: containers run on it");
        // Pulled again, it is fine, and what was set aside stays.
        assert_eq!(fixture.ingest(archive()).unwrap(), layer, "{what}");
        fixture.store.commit_image(image("app:v1", &[&layer], "x")).unwrap();
        assert_eq!(count(&bad), 1, "{what}");
    }
}

#[test]
fn damage_is_found_and_the_next_pull_replaces_the_layer() {
    type Damage = fn(&Path);
    let damages: [(&str, bool, Damage); 6] = [
        ("other content of the same size", false, |tree| fs::write(tree.join("d/f"), "CONTENT").unwrap()),
        ("a truncated file", true, |tree| fs::write(tree.join("d/f"), "").unwrap()),
        ("a file that is gone", true, |tree| fs::remove_file(tree.join("d/g")).unwrap()),
        ("a file too many", true, |tree| fs::write(tree.join("new"), "").unwrap()),
        ("another name", true, |tree| fs::rename(tree.join("d/g"), tree.join("d/h")).unwrap()),
        ("another target", true, |tree| {
            fs::remove_file(tree.join("l")).unwrap();
            std::os::unix::fs::symlink("d/g", tree.join("l")).unwrap();
        }),
    ];
    for (what, by_metadata, damage) in damages {
        let (fixture, layer) = with_image();
        let layers = std::slice::from_ref(&layer);
        damage(&fixture.layer(&layer));
        // What this server unpacked itself it does not read again with each pull.
        assert_eq!(fixture.store.check_layers(layers), [], "{what}");
        let fixture = fixture.reopen();
        let found = fixture.store.check_layers(layers);
        assert_eq!(found.len(), usize::from(by_metadata), "{what}");
        assert!(matches!(fixture.store.verify(&layer).unwrap(), Condition::Damaged(_)), "{what}");
        assert_eq!(fixture.store.check_layers(layers), layers, "{what}");
        assert!(!fixture.store.has_layer(&layer), "{what}");
        // The next server knows.
        let fixture = fixture.reopen();
        assert!(!fixture.store.has_layer(&layer), "{what}");
        let lease = fixture.store.lease(layers).unwrap();
        assert_eq!(fixture.ingest(archive()).unwrap(), layer, "{what}");
        assert!(fixture.store.has_layer(&layer), "{what}");
        assert_eq!(fs::read(fixture.layer(&layer).join("d/f")).unwrap(), b"content", "{what}");
        assert!(fixture.store.find("app:v1").is_ok(), "{what}");
        let superseded = fixture.root().join("layers/.superseded");
        fixture.store.collect_unused().unwrap();
        assert_eq!(count(&superseded), 1, "{what}: a container runs on the old copy");
        drop(lease);
        wait("the old copy goes with the last lease", || count(&superseded) == 0);
        let fixture = fixture.reopen();
        assert_eq!(fixture.store.verify(&layer).unwrap(), Condition::Sound, "{what}");
    }
}

#[test]
fn a_damaged_copy_stays_until_recovery_has_leased_it() {
    let (fixture, layer) = with_image();
    let lease = fixture.store.lease(std::slice::from_ref(&layer)).unwrap();
    fs::write(fixture.layer(&layer).join("d/f"), "CONTENT").unwrap();
    assert!(matches!(fixture.store.verify(&layer).unwrap(), Condition::Damaged(_)));
    fixture.ingest(archive()).unwrap();
    let superseded = fixture.root().join("layers/.superseded");
    let kept = fs::read_dir(&superseded).unwrap().next().unwrap().unwrap().path();
    // A lease keeps the store open; this one ends with the server, and the containers live on.
    let aside = fixture.root().join("layers/kept-by-the-test");
    fs::rename(&kept, &aside).unwrap();
    drop(lease);
    std::thread::sleep(Duration::from_millis(50));
    fs::rename(&aside, &kept).unwrap();
    let fixture = fixture.restart();
    assert_eq!(fs::read(kept.join("fs/d/f")).unwrap(), b"CONTENT");
    let lease = fixture.store.lease(std::slice::from_ref(&layer)).unwrap();
    fixture.store.start_collection().unwrap();
    assert!(kept.exists(), "a container runs on it");
    drop(lease);
    wait("the old copy goes with the last lease", || !kept.exists());
}

#[test]
fn after_a_failed_sync_nothing_written_before_is_ever_called_durable() {
    let (fixture, durable) = with_image();
    let own = fixture.ingest(Archive::new().file("own", "x")).unwrap();
    let failing = arm(&format!("sync_images/syncfs@{}", fixture.root().display()), Fault::Fail);
    let lost = fixture.store.commit_image(image("lost:v1", &[&durable, &own], "lost")).unwrap();
    wait("the sync fails", || !fixture.store.has_layer(&own));
    drop(failing);
    assert!(fixture.store.has_layer(&durable), "it was durable before");
    let record = fixture.root().join("images").join(lost.id.hex()).join("record.json");
    let unsynced = || fs::read_to_string(&record).unwrap().contains("unsynced_in");
    fixture.store.sync().unwrap();
    assert!(unsynced(), "the kernel reports a lost write once; a later sync knows nothing of it");
    assert!(matches!(
        fixture.store.commit_image(image("lost:v1", &[&durable, &own], "lost")),
        Err(StoreError::LayerMissing(diff)) if diff == own
    ));
    assert!(fixture.store.find("lost:v1").is_ok(), "it can be used until the machine goes down");
    // Neither does the next server forget.
    let fixture = fixture.reopen();
    assert!(fixture.store.find("lost:v1").is_err() && !fixture.store.has_layer(&own));
    // Pulled again, all is well.
    fixture.ingest(Archive::new().file("own", "x")).unwrap();
    fixture.store.commit_image(image("lost:v1", &[&durable, &own], "lost")).unwrap();
    fixture.store.sync().unwrap();
    assert!(!unsynced());
    assert!(fixture.store.has_layer(&own));
}

#[test]
fn a_layer_unpacked_while_a_sync_fails_is_not_published() {
    struct FailsTheSync<'a>(&'a Fixture, &'a [u8]);
    impl std::io::Read for FailsTheSync<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            if self.1.is_empty() {
                let fixture = self.0;
                fixture.store.commit_image(image("other:v1", &[], "other")).unwrap();
                let _failing = arm(&format!("sync_images/syncfs@{}", fixture.root().display()), Fault::Fail);
                // The commit's own sync in the background may come first, before the fault.
                let _ = fixture.store.sync();
                fixture.store.commit_image(image("other:v2", &[], "other 2")).unwrap();
                fixture.store.sync().unwrap_err();
            }
            self.1.read(into)
        }
    }
    let fixture = Fixture::new();
    let tar = archive().tar();
    let diff = crate::fixture::diff_of(&tar);
    let error = fixture.store.ingest_layer(&diff, FailsTheSync(&fixture, &tar)).unwrap_err().to_string();
    assert!(error.contains("lost writes"), "{error}");
    assert!(!fixture.store.has_layer(&diff));
    fixture.assert_no_leftovers();
}

#[test]
fn of_what_was_set_aside_at_earlier_starts_the_newest_are_kept() {
    let mut fixture = Fixture::new();
    let newest = |fixture: &Fixture| {
        let bad = fs::read_dir(fixture.root().join("layers/.bad")).unwrap();
        let mut bad: Vec<_> = bad.map(|entry| entry.unwrap().path()).collect();
        bad.sort_by_key(|path| path.metadata().map(|data| (data.ctime(), data.ctime_nsec())).unwrap());
        bad
    };
    let mut layers = Vec::new();
    // One is in use as long as the test: its lease is taken again at each start.
    for n in 0..8 {
        let layer = fixture.ingest(Archive::new().file("number", format!("{n}"))).unwrap();
        fixture.store.commit_image(image(&format!("app:v{n}"), &[&layer], &format!("{n}"))).unwrap();
        fs::write(record_of(&fixture, &layer), "").unwrap();
        layers.push(layer);
        fixture = fixture.restart();
        let used = fixture.store.hold(&layers[..1]);
        fixture.store.start_collection().unwrap();
        drop(used);
    }
    // Seven of earlier starts, of which the oldest is in use and five are kept, and that of the last start.
    let names: Vec<String> =
        newest(&fixture).iter().map(|path| fs::read_to_string(path.join("fs/number")).unwrap()).collect();
    assert_eq!(names, ["0", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(count(&fixture.root().join("images/.bad")), 6);
    // Used no longer.
    let fixture = fixture.reopen();
    wait("the oldest go", || newest(&fixture).len() == 5);
    let kept = newest(&fixture);
    assert_eq!(fs::read_to_string(kept[0].join("fs/number")).unwrap(), "3");
    fixture.assert_no_leftovers();
}
