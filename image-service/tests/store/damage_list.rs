//! Damage that the disk refuses to note.

use std::fs;

use crisp_image_service::DiffId;
use crisp_image_service::store::Condition;
use crisp_operation::fault::{Armed, Fault, arm};

use crate::archive::Archive;
use crate::damage::wait;
use crate::fixture::{Fixture, image};

fn fail(fixture: &Fixture, point: &str) -> Armed {
    arm(&format!("{point}@{}", fixture.root().display()), Fault::Fail)
}

fn own() -> Archive {
    Archive::new().file("own", "x")
}

/// An image with a layer of its own, whose sync has failed on a disk that refuses to note it.
fn lost_without_a_note() -> (Fixture, DiffId) {
    let fixture = Fixture::new();
    let layer = fixture.ingest(own()).unwrap();
    let (sync, refused) = (fail(&fixture, "sync_images/syncfs"), fail(&fixture, "mark_damaged/record"));
    let id = fixture.store.commit_image(image("lost:v1", &[&layer], "lost")).unwrap().id.clone();
    wait("the sync fails", || !fixture.store.has_layer(&layer));
    wait("both are listed", || refused.is_reached() && fixture.store.is_sync_failed(&id));
    let record = fixture.root().join("images").join(id.hex()).join("record.json");
    assert!(!fs::read_to_string(record).unwrap().contains("sync failed"));
    drop((sync, refused));
    (fixture, layer)
}

#[test]
fn damage_that_could_not_be_noted_is_known_after_a_restart_in_the_same_boot() {
    let (fixture, layer) = lost_without_a_note();
    let fixture = fixture.reopen();
    assert!(fixture.store.find("lost:v1").is_err(), "nothing says that it reached the disk");
    assert!(!fixture.store.has_layer(&layer));
    assert_eq!(fixture.store.check_layers(std::slice::from_ref(&layer)), std::slice::from_ref(&layer));
    // Pulled again, it is sound for good.
    fixture.ingest(own()).unwrap();
    fixture.store.commit_image(image("lost:v1", &[&layer], "lost")).unwrap();
    fixture.store.sync().unwrap();
    let fixture = fixture.reopen();
    assert!(fixture.store.find("lost:v1").is_ok() && fixture.store.has_layer(&layer));
}

#[test]
fn a_later_sync_does_not_certify_an_image_whose_damage_could_not_be_noted() {
    let (fixture, _) = lost_without_a_note();
    let id = fixture.store.find("lost:v1").unwrap().id.clone();
    let record = fixture.root().join("images").join(id.hex()).join("record.json");
    fixture.store.sync().unwrap();
    assert!(fixture.store.is_sync_failed(&id));
    // The disk takes the note now.
    assert!(fs::read_to_string(record).unwrap().contains("sync failed"));
    let list = fs::read_to_string(fixture.folder.path().join("state/store-damage.json")).unwrap();
    assert!(list.contains("\"damaged\":[]"), "{list}");
}

#[test]
fn a_disk_that_refuses_to_note_damage_does_not_hide_damage_from_a_pull() {
    let fixture = Fixture::new();
    let layer = fixture.ingest(own()).unwrap();
    fixture.store.commit_image(image("app:v1", &[&layer], "x")).unwrap();
    fixture.store.sync().unwrap();
    fs::remove_file(fixture.layer(&layer).join("own")).unwrap();
    let fixture = fixture.reopen();
    let _refused = fail(&fixture, "mark_damaged/record");
    assert_eq!(fixture.store.check_layers(std::slice::from_ref(&layer)), std::slice::from_ref(&layer));
    assert!(matches!(fixture.store.verify(&layer).unwrap(), Condition::Damaged(_)));
}
