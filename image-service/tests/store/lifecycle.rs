//! Images come, are found under their names, and go; layers go with the last one who wants them.

use std::fs;
use std::sync::Arc;

use crisp_image_service::digest::{Algorithm, Hasher};
use crisp_image_service::store::{FindError, FsUsage, Removed, StoreError};
use crisp_image_service::{DiffId, Reference};

use crate::archive::Archive;
use crate::fixture::{Fixture, count, image};

fn layers<const N: usize>(fixture: &Fixture) -> [DiffId; N] {
    std::array::from_fn(|n| fixture.ingest(Archive::new().file(format!("layer-{n}"), vec![1; 5000])).unwrap())
}

#[test]
fn an_image_is_found_under_every_name() {
    let fixture = Fixture::new();
    let [a, b] = layers(&fixture);
    let new = image("busybox", &[&a, &b], "x");
    let image = fixture.store.commit_image(new.clone()).unwrap();
    let digest = format!("docker.io/library/busybox@{}", new.resolved);
    assert_eq!(image.repo_tags, ["docker.io/library/busybox:latest"]);
    assert_eq!(image.repo_digests, std::slice::from_ref(&digest));
    assert_eq!(image.diff_ids, [a, b]);
    assert_eq!(image.size, fixture.store.usage().bytes);
    assert_eq!(image.config.config().as_ref().unwrap().user().as_deref(), Some("1000:1000"));
    let id = image.id.to_string();
    for name in [
        "busybox",
        "library/busybox:latest",
        "docker.io/library/busybox",
        &digest,
        &format!("busybox:whatever@{}", new.resolved),
        &id,
        &id["sha256:".len()..],
        &id[..20],
        &id["sha256:".len()..][..4],
    ] {
        assert_eq!(fixture.store.find(name).unwrap().id, image.id, "{name}");
    }
    for name in ["busybox:1", "quay.io/library/busybox", "sha256:0000", "feedbeef", "a"] {
        assert!(matches!(fixture.store.find(name), Err(FindError::Unknown(text)) if text == name), "{name}");
    }
    assert!(matches!(fixture.store.find("Bad Name"), Err(FindError::Invalid(_))));
    assert!(matches!(fixture.store.find(""), Err(FindError::Invalid(_))));
}

#[test]
fn ids_of_either_algorithm_are_found() {
    let fixture = Fixture::new();
    let mut new = image("long", &[], "x");
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&new.config.bytes);
    new.config.digest = hasher.finish();
    let long = fixture.store.commit_image(new).unwrap();
    let text = long.id.to_string();
    assert!(text.starts_with("sha512:"));
    for name in [&text[..], &text["sha512:".len()..], &text[..20], &text["sha512:".len()..][..70], "long"] {
        assert_eq!(fixture.store.find(name).unwrap().id, long.id, "{name}");
    }
    let other = text.replace("sha512", "sha256");
    assert!(matches!(fixture.store.find(&other[..40]), Err(FindError::Unknown(_))), "of another algorithm");
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.find(&text).unwrap().id, long.id);
}

#[test]
fn an_id_that_starts_like_another_is_ambiguous() {
    let fixture = Fixture::new();
    let mut seen = std::collections::HashMap::new();
    // By the birthday paradox, two of some 600 ids share four digits soon enough.
    for n in 0.. {
        let id = fixture.store.commit_image(image(&format!("i{n}"), &[], &n.to_string())).unwrap().id.clone();
        if let Some(other) = seen.insert(id.hex()[..4].to_owned(), id.clone()) {
            let error = fixture.store.find(&id.hex()[..4]).unwrap_err().to_string();
            assert!(error.contains(id.short()) && error.contains(other.short()), "{error}");
            assert!(error.contains("give more digits"));
            return;
        }
    }
}

#[test]
fn a_tag_moves_and_the_old_image_stays_under_its_digest() {
    let fixture = Fixture::new();
    let [a] = layers(&fixture);
    let old = fixture.store.commit_image(image("app:v1", &[&a], "old")).unwrap();
    let new = fixture.store.commit_image(image("app:v1", &[&a], "new")).unwrap();
    assert_eq!(fixture.store.find("app:v1").unwrap().id, new.id);
    let old = fixture.store.find(old.id.as_str()).unwrap();
    assert!(old.repo_tags.is_empty());
    assert_eq!(old.repo_digests.len(), 1);
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.find("app:v1").unwrap().id, new.id);
    assert!(fixture.store.find(old.id.as_str()).unwrap().repo_tags.is_empty());
}

#[test]
fn the_same_image_gathers_names() {
    let fixture = Fixture::new();
    let [a] = layers(&fixture);
    let first = fixture.store.commit_image(image("one/app:v1", &[&a], "x")).unwrap();
    let again = fixture.store.commit_image(image("two/app:v2", &[&a], "x")).unwrap();
    assert_eq!((&first.id, first.pulled_at), (&again.id, again.pulled_at));
    assert_eq!(again.repo_tags, ["docker.io/one/app:v1", "docker.io/two/app:v2"]);
    assert_eq!(again.repo_digests.len(), 2);
    let tag = |text| Reference::parse(text).unwrap();
    assert_eq!(
        fixture.store.untag(&again.id, &tag("one/app:v1")).unwrap(),
        Removed::Untagged(first.id.clone())
    );
    assert!(fixture.store.find("one/app:v1").is_err());
    assert!(fixture.store.find("two/app:v2").is_ok());
    let fixture = fixture.reopen();
    assert!(fixture.store.find("one/app:v1").is_err());
    assert_eq!(fixture.store.untag(&again.id, &tag("two/app:v2")).unwrap(), Removed::Image(first.id.clone()));
    assert!(fixture.store.list().is_empty());
    assert_eq!(fixture.store.usage(), FsUsage::default());
    fixture.assert_no_leftovers();
}

#[test]
fn layers_go_with_the_last_image() {
    let fixture = Fixture::new();
    let [shared, own] = layers(&fixture);
    let one = fixture.store.commit_image(image("one", &[&shared, &own], "1")).unwrap();
    let two = fixture.store.commit_image(image("two", &[&shared], "2")).unwrap();
    fixture.store.remove_image(&one.id).unwrap();
    assert!(fixture.store.has_layer(&shared) && !fixture.store.has_layer(&own));
    assert!(!fixture.layer(&own).exists() && fixture.layer(&shared).exists());
    fixture.store.remove_image(&two.id).unwrap();
    assert!(!fixture.store.has_layer(&shared));
    assert!(matches!(fixture.store.remove_image(&two.id), Err(StoreError::ImageMissing(id)) if id == two.id));
    fixture.assert_no_leftovers();
    // Only the hidden folders.
    assert_eq!((count(&fixture.root().join("layers")), count(&fixture.root().join("images"))), (4, 4));
}

#[test]
fn a_lease_keeps_layers_of_a_removed_image() {
    let fixture = Fixture::new();
    let [bottom, top] = layers(&fixture);
    let image = fixture.store.commit_image(image("one", &[&bottom, &top], "1")).unwrap();
    let lease = fixture.store.lease(&image.diff_ids).unwrap();
    let second = fixture.store.lease(&image.diff_ids).unwrap();
    assert_eq!(lease.layer_paths(), [fixture.layer(&top), fixture.layer(&bottom)]);
    fixture.store.remove_image(&image.id).unwrap();
    fixture.store.collect_unused().unwrap();
    drop(second);
    assert!(lease.layer_paths().iter().all(|path| path.is_dir()));
    drop(lease);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while fixture.store.has_layer(&top) || fixture.layer(&bottom).exists() {
        assert!(std::time::Instant::now() < deadline, "the last lease took nothing with it");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(
        matches!(fixture.store.lease(std::slice::from_ref(&top)), Err(StoreError::LayerMissing(diff)) if diff == top)
    );
    fixture.assert_no_leftovers();
}

#[test]
fn a_hold_keeps_what_a_pull_has_unpacked() {
    let fixture = Fixture::new();
    let [a] = layers(&fixture);
    let hold = fixture.store.hold(std::slice::from_ref(&a));
    fixture.store.collect_unused().unwrap();
    assert!(fixture.store.has_layer(&a));
    drop(hold);
    // A failed pull's layers stay for the next try …
    assert!(fixture.store.has_layer(&a));
    // … until an image is removed.
    let other = fixture.store.commit_image(image("other", &[], "o")).unwrap();
    fixture.store.remove_image(&other.id).unwrap();
    assert!(!fixture.store.has_layer(&a));
}

#[test]
fn a_layer_that_was_held_while_its_image_was_removed_goes_with_the_hold() {
    let fixture = Fixture::new();
    let [shared, own, of_a_pull] = layers(&fixture);
    let one = fixture.store.commit_image(image("one", &[&shared, &own], "1")).unwrap();
    fixture.store.commit_image(image("two", &[&shared], "2")).unwrap();
    let pull = fixture.store.hold(std::slice::from_ref(&of_a_pull));
    // A check, for example.
    let hold = fixture.store.hold(&[shared.clone(), own.clone()]);
    let second = fixture.store.hold(std::slice::from_ref(&own));
    fixture.store.remove_image(&one.id).unwrap();
    drop(second);
    assert!(fixture.store.has_layer(&own));
    drop(hold);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while fixture.store.has_layer(&own) || fixture.layer(&own).exists() {
        assert!(std::time::Instant::now() < deadline, "the last hold took nothing with it");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(fixture.store.has_layer(&shared), "another image has it");
    drop(pull);
    fixture.assert_no_leftovers();
    assert!(fixture.store.has_layer(&of_a_pull), "a failed pull's layers stay for the next try");
}

#[test]
fn a_layer_that_was_held_while_no_layer_could_go_goes_with_the_hold() {
    let fixture = Fixture::new();
    let [own, _, _] = layers(&fixture);
    let image = fixture.store.commit_image(image("one", &[&own], "1")).unwrap();
    let (all, hold) = (fixture.store.keep_all(), fixture.store.hold(std::slice::from_ref(&own)));
    fixture.store.remove_image(&image.id).unwrap();
    drop(all);
    // The collection of what was kept is over after another one.
    fixture.store.collect_unused().unwrap();
    assert!(fixture.store.has_layer(&own));
    drop(hold);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while fixture.store.has_layer(&own) {
        assert!(std::time::Instant::now() < deadline, "the hold took nothing with it");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn an_image_without_its_layers_or_with_other_bytes_is_refused() {
    let fixture = Fixture::new();
    let missing = DiffId::parse(&format!("sha256:{}", "1".repeat(64))).unwrap();
    let error = fixture.store.commit_image(image("a", &[&missing], "x")).unwrap_err();
    assert!(matches!(&error, StoreError::LayerMissing(diff) if *diff == missing), "{error}");
    let mut lying = image("a", &[], "x");
    lying.config.bytes.push(b' ');
    assert!(matches!(fixture.store.commit_image(lying), Err(StoreError::WrongDigest { .. })));
    let mut broken = image("a", &[], "x");
    broken.config = crate::fixture::document(&b"{\"architecture\": 1}"[..]);
    let error = fixture.store.commit_image(broken).unwrap_err();
    assert!(matches!(error, StoreError::Config { .. }), "{error}");
    let mut escape = image("a", &[], "x");
    escape.config = crate::fixture::document(
        &br#"{"architecture":"a","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:../../etc"]}}"#[..],
    );
    assert!(matches!(fixture.store.commit_image(escape), Err(StoreError::Config { .. })));
    assert!(fixture.store.list().is_empty());
    fixture.assert_no_leftovers();
}

#[test]
fn pins_are_remembered() {
    let fixture = Fixture::new();
    let image = fixture.store.commit_image(image("a", &[], "x")).unwrap();
    assert!(!image.pinned);
    let record = fixture.root().join("images").join(image.id.hex()).join("record.json");
    let fixture = fixture.restart();
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("\"pinned\":false", "\"pinned\":true")).unwrap();
    let fixture = fixture.reopen();
    assert!(fixture.store.image(&image.id).unwrap().pinned);
    assert_eq!(fixture.store.find("a").unwrap().pulled_at, image.pulled_at);
}

#[test]
fn ingesting_a_layer_twice_at_once_gives_one() {
    let fixture = Arc::new(Fixture::new());
    let archive = (0..200).fold(Archive::new(), |a, n| a.file(format!("f{n}"), vec![3; 2000]));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (fixture, archive) = (Arc::clone(&fixture), archive.clone());
            std::thread::spawn(move || fixture.ingest(archive).unwrap())
        })
        .collect();
    let diffs: Vec<DiffId> = workers.into_iter().map(|w| w.join().unwrap()).collect();
    assert!(diffs.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fs::read_dir(fixture.layer(&diffs[0])).unwrap().count(), 200);
    fixture.assert_no_leftovers();
    assert_eq!(fixture.store.usage().inodes, 201);
}

#[test]
fn a_store_in_use_is_not_opened_twice() {
    let fixture = Fixture::new();
    let error = crisp_image_service::Store::open(&fixture.root()).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    assert!(error.to_string().contains("--root"), "{error}");
}

#[test]
fn ext4_is_asked_to_place_layers_apart() {
    let fixture = Fixture::new();
    let folder = fs::File::open(fixture.root().join("layers/.unpacking")).unwrap();
    if rustix::fs::fstatfs(&folder).unwrap().f_type != 0xef53 {
        crisp_skip::unsupported!(FileSystem("ext4"));
    }
    let flags = rustix::fs::ioctl_getflags(&folder).unwrap();
    assert!(flags.contains(rustix::fs::IFlags::TOPDIR), "{flags:?}");
}
