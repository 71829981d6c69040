//! File systems that cannot exchange two folders in one step, and servers that die between the steps.

use std::fs;

use crisp_image_service::DiffId;
use crisp_image_service::store::Condition;
use crisp_operation::fault::{Armed, Fault, arm};

use crate::archive::Archive;
use crate::fixture::{Fixture, count, image};

fn archive() -> Archive {
    Archive::new().file("f", "content")
}

fn forbid_one_step(fixture: &Fixture) -> Armed {
    arm(&format!("exchange_folders/one_step@{}", fixture.root().display()), Fault::Fail)
}

fn stop_at(fixture: &Fixture, step: &str) -> Armed {
    arm(&format!("exchange_folders/{step}@{}", fixture.root().display()), Fault::Fail)
}

/// A synced image of one layer, which is damaged.
fn damaged() -> (Fixture, DiffId) {
    let fixture = Fixture::new();
    let layer = fixture.ingest(archive()).unwrap();
    fixture.store.commit_image(image("app:v1", &[&layer], "x")).unwrap();
    fixture.store.sync().unwrap();
    fs::write(fixture.layer(&layer).join("f"), "CONTENT").unwrap();
    assert!(matches!(fixture.store.verify(&layer).unwrap(), Condition::Damaged(_)));
    (fixture, layer)
}

/// The number of layers and images that are between two steps.
fn interim(fixture: &Fixture) -> usize {
    let old = |folder: &str| {
        let entries = fs::read_dir(fixture.root().join(folder)).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "old")).count()
    };
    old("layers") + old("images")
}

#[test]
fn without_an_exchange_in_one_step_a_damaged_layer_is_replaced_in_three() {
    let (fixture, layer) = damaged();
    let _three_steps = forbid_one_step(&fixture);
    let lease = fixture.store.lease(std::slice::from_ref(&layer)).unwrap();
    fixture.ingest(archive()).unwrap();
    assert_eq!(fs::read(fixture.layer(&layer).join("f")).unwrap(), b"content");
    assert_eq!((interim(&fixture), count(&fixture.root().join("layers/.superseded"))), (0, 1));
    drop(lease);
}

#[test]
fn a_layer_that_was_moved_away_when_the_server_died_is_put_back() {
    let (fixture, layer) = damaged();
    let (three, dies) = (forbid_one_step(&fixture), stop_at(&fixture, "old_away"));
    fixture.ingest(archive()).unwrap_err();
    assert!(dies.is_reached() && interim(&fixture) == 1);
    drop((three, dies));
    let fixture = fixture.restart();
    assert_eq!(interim(&fixture), 0);
    assert_eq!(fs::read(fixture.layer(&layer).join("f")).unwrap(), b"CONTENT", "containers run on it");
    assert!(fixture.store.find("app:v1").is_ok(), "its image is not lost");
    assert!(!fixture.store.has_layer(&layer));
    fixture.store.start_collection().unwrap();
    fixture.ingest(archive()).unwrap();
    assert_eq!(fs::read(fixture.layer(&layer).join("f")).unwrap(), b"content");
}

#[test]
fn a_copy_whose_place_was_taken_when_the_server_died_stays_while_a_container_runs_on_it() {
    let (fixture, layer) = damaged();
    let (three, dies) = (forbid_one_step(&fixture), stop_at(&fixture, "new_placed"));
    fixture.ingest(archive()).unwrap_err();
    assert!(dies.is_reached() && interim(&fixture) == 1);
    drop((three, dies));
    let fixture = fixture.restart();
    let superseded = fixture.root().join("layers/.superseded");
    let kept = fs::read_dir(&superseded).unwrap().next().unwrap().unwrap().path();
    assert_eq!((interim(&fixture), fs::read(kept.join("fs/f")).unwrap()), (0, b"CONTENT".to_vec()));
    // Recovery finds the container that runs on it.
    let lease = fixture.store.lease(std::slice::from_ref(&layer)).unwrap();
    fixture.store.start_collection().unwrap();
    fixture.store.collect_unused().unwrap();
    assert!(kept.exists());
    assert_eq!(fs::read(fixture.layer(&layer).join("f")).unwrap(), b"content");
    assert_eq!(fixture.store.verify(&layer).unwrap(), Condition::Sound);
    drop(lease);
    crate::damage::wait("the old copy goes with the last lease", || !kept.exists());
}

#[test]
fn an_image_is_never_lost_between_the_steps_of_its_renewal() {
    for step in ["old_away", "new_placed"] {
        let fixture = Fixture::new();
        // An image that is not durable is written anew by the next pull.
        let failing = arm(&format!("sync_images/syncfs@{}", fixture.root().display()), Fault::Fail);
        let id = fixture.store.commit_image(image("app:v1", &[], "x")).unwrap().id.clone();
        crate::damage::wait("the sync fails", || fixture.store.is_sync_failed(&id));
        drop(failing);
        let (three, dies) = (forbid_one_step(&fixture), stop_at(&fixture, step));
        fixture.store.commit_image(image("app:v1", &[], "x")).unwrap_err();
        assert!(dies.is_reached() && interim(&fixture) == 1, "{step}");
        drop((three, dies));
        let fixture = fixture.reopen();
        assert_eq!(interim(&fixture), 0, "{step}");
        // The old one is known to be incomplete; the new one is there.
        assert_eq!(fixture.store.find("app:v1").is_ok(), step == "new_placed");
        fixture.assert_no_leftovers();
    }
}
