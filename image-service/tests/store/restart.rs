//! The remains of a server that died, and how the next one handles them.

use std::fs;
use std::path::Path;

use crisp_image_service::DiffId;

use crate::archive::Archive;
use crate::fixture::{Fixture, count, image};

fn with_image() -> (Fixture, DiffId) {
    let fixture = Fixture::new();
    let layer = fixture.ingest(Archive::new().file("f", "x")).unwrap();
    fixture.store.commit_image(image("kept:v1", &[&layer], "x")).unwrap();
    fixture.store.sync().unwrap();
    (fixture, layer)
}

#[test]
fn everything_is_known_again() {
    let (fixture, layer) = with_image();
    let (before, usage) = (fixture.store.find("kept:v1").unwrap(), fixture.store.usage());
    let fixture = fixture.reopen();
    let after = fixture.store.find("kept:v1").unwrap();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert_eq!(fixture.store.usage(), usage);
    assert!(fixture.store.has_layer(&layer));
}

#[test]
fn half_written_things_are_removed() {
    let (fixture, _) = with_image();
    let root = fixture.root();
    for folder in ["layers/.unpacking/3/fs/a/b", "layers/.trash/1/fs", "images/.new/9", "images/.trash/4"] {
        fs::create_dir_all(root.join(folder)).unwrap();
        fs::write(root.join(folder).join("file"), "half").unwrap();
    }
    let fixture = fixture.reopen();
    fixture.assert_no_leftovers();
    assert_eq!(fixture.store.list().len(), 1);
}

#[test]
fn a_layer_of_this_boot_is_kept_for_the_next_pull() {
    let (fixture, _) = with_image();
    let unclaimed = fixture.ingest(Archive::new().file("g", "y")).unwrap();
    let fixture = fixture.reopen();
    assert!(fixture.store.has_layer(&unclaimed));
    fixture.store.collect_unused().unwrap();
    assert!(!fixture.store.has_layer(&unclaimed));
}

#[test]
fn a_layer_of_an_earlier_boot_is_only_trusted_when_an_image_names_it() {
    let (fixture, layer) = with_image();
    let unclaimed = fixture.ingest(Archive::new().file("g", "y")).unwrap();
    for diff in [&layer, &unclaimed] {
        age(&fixture.layer(diff).with_file_name("layer.json"));
    }
    let fixture = fixture.restart();
    assert!(fixture.store.has_layer(&layer), "its image's record was written after it was synced");
    assert!(!fixture.store.has_layer(&unclaimed), "it may have lost content with the power");
    assert!(fixture.layer(&unclaimed).exists(), "a container may run on it");
    fixture.store.start_collection().unwrap();
    assert!(!fixture.layer(&unclaimed).exists());
    fixture.assert_no_leftovers();
}

/// Makes a record one of an earlier boot.
fn age(record: &Path) {
    let text = fs::read_to_string(record).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(record, text.replace(boot.trim(), "an-earlier-boot")).unwrap();
}

#[test]
fn an_image_that_the_power_cut_short_goes_and_its_layers_with_it() {
    let (fixture, layer) = with_image();
    let own = fixture.ingest(Archive::new().file("g", "y")).unwrap();
    let cut = fixture.store.commit_image(image("cut:v1", &[&layer, &own], "cut")).unwrap();
    fixture.store.sync().unwrap();
    let record = fixture.root().join("images").join(cut.id.hex()).join("record.json");
    let text = fs::read_to_string(&record).unwrap();
    assert!(!text.contains("unsynced"), "{text}");
    // As it was before it was settled, and never came to be.
    fs::write(&record, text.replace("\"pinned\"", "\"unsynced_in\": \"an-earlier-boot\", \"pinned\""))
        .unwrap();
    age(&fixture.layer(&own).with_file_name("layer.json"));
    age(&fixture.layer(&layer).with_file_name("layer.json"));
    let fixture = fixture.reopen();
    assert!(fixture.store.find("cut:v1").is_err() && !fixture.store.has_layer(&own));
    assert!(fixture.store.find("kept:v1").is_ok() && fixture.store.has_layer(&layer));
    fixture.assert_no_leftovers();
    assert_eq!(count(&fixture.root().join("images/.bad")), 0, "nothing is wrong with it");
}

#[test]
fn an_image_is_settled_in_the_background_also_after_a_restart() {
    let (fixture, layer) = with_image();
    let image = fixture.store.commit_image(image("new:v1", &[&layer], "new")).unwrap();
    let record = fixture.root().join("images").join(image.id.hex()).join("record.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fixture.store.sync().unwrap();
    let text = fs::read_to_string(&record).unwrap();
    let unsynced = format!("\"unsynced_in\": \"{}\", \"pinned\"", boot.trim());
    fs::write(&record, text.replace("\"pinned\"", &unsynced)).unwrap();
    let fixture = fixture.reopen();
    assert!(fixture.store.find("new:v1").is_ok());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while fs::read_to_string(&record).unwrap().contains("unsynced") {
        assert!(std::time::Instant::now() < deadline, "never settled");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn what_cannot_be_read_is_set_aside_and_the_rest_goes_on() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("empty record", |image| fs::write(image.join("record.json"), "").unwrap()),
        ("no record", |image| fs::remove_file(image.join("record.json")).unwrap()),
        ("newer record", |image| {
            let path = image.join("record.json");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace("\"version\":1", "\"version\":2")).unwrap();
        }),
        ("another's record", |image| {
            let path = image.join("record.json");
            let text = fs::read_to_string(&path).unwrap();
            let name = image.file_name().unwrap().to_str().unwrap();
            fs::write(path, text.replace(name, &"0".repeat(64))).unwrap();
        }),
        ("changed configuration", |image| fs::write(image.join("config.json"), "{}").unwrap()),
        ("no configuration", |image| fs::remove_file(image.join("config.json")).unwrap()),
    ];
    for (what, damage) in damages {
        let (fixture, layer) = with_image();
        let bad = fixture.store.commit_image(image("bad:v1", &[&layer], "bad")).unwrap();
        fixture.store.sync().unwrap();
        damage(&fixture.root().join("images").join(bad.id.hex()));
        let fixture = fixture.reopen();
        assert!(fixture.store.find("bad:v1").is_err(), "{what}");
        assert!(fixture.store.find("kept:v1").is_ok(), "{what}");
        assert_eq!(count(&fixture.root().join("images/.bad")), 1, "{what}");
        // Pulled again, it is fine.
        fixture.store.commit_image(image("bad:v1", &[&layer], "bad")).unwrap();
        let fixture = fixture.reopen();
        assert_eq!(fixture.store.find("bad:v1").unwrap().id, bad.id, "{what}");
    }
}

#[test]
fn what_the_disk_refuses_to_read_stays_for_the_next_start() {
    type Choose = fn(&Path, &Path) -> std::path::PathBuf;
    let refused: [(&str, Choose); 3] = [
        ("image record", |image, _| image.join("record.json")),
        ("configuration", |image, _| image.join("config.json")),
        ("layer record", |_, layer| layer.join("layer.json")),
    ];
    for (what, path) in refused {
        let (fixture, layer) = with_image();
        let folder = fixture.layer(&layer).with_file_name("");
        let id = fixture.store.find("kept:v1").unwrap().id.clone();
        age(&folder.join("layer.json"));
        let path = path(&fixture.root().join("images").join(id.hex()), &folder);
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        // Reading a folder is an error that says nothing about the record.
        fs::create_dir(&path).unwrap();
        let fixture = fixture.reopen();
        assert!(fixture.store.find("kept:v1").is_err(), "{what}");
        fixture.store.collect_unused().unwrap();
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        let fixture = fixture.reopen();
        assert_eq!(fixture.store.find("kept:v1").unwrap().id, id, "{what}");
        assert!(fixture.store.has_layer(&layer), "{what}");
    }
}

#[test]
fn a_pull_replaces_what_the_disk_refuses_to_read() {
    let (fixture, layer) = with_image();
    let id = fixture.store.find("kept:v1").unwrap().id.clone();
    for record in [
        fixture.root().join("images").join(id.hex()).join("record.json"),
        fixture.layer(&layer).with_file_name("layer.json"),
    ] {
        fs::remove_file(&record).unwrap();
        fs::create_dir(&record).unwrap();
    }
    let fixture = fixture.reopen();
    assert_eq!(fixture.ingest(Archive::new().file("f", "x")).unwrap(), layer);
    fixture.store.commit_image(image("kept:v1", &[&layer], "x")).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.find("kept:v1").unwrap().id, id);
}

#[test]
fn an_image_that_lost_a_layer_is_not_used() {
    let (fixture, layer) = with_image();
    fs::remove_dir_all(fixture.layer(&layer)).unwrap();
    let fixture = fixture.restart();
    assert!(!fixture.store.has_layer(&layer));
    assert!(fixture.store.list().is_empty());
    let again = fixture.ingest(Archive::new().file("f", "x")).unwrap();
    assert_eq!(again, layer);
    fixture.store.commit_image(image("kept:v1", &[&layer], "x")).unwrap();
    assert!(fixture.store.find("kept:v1").is_ok());
}

#[test]
fn a_name_on_two_images_belongs_to_the_later() {
    let (fixture, layer) = with_image();
    fixture.store.sync().unwrap();
    let first = fixture.store.find("kept:v1").unwrap();
    let record = fixture.root().join("images").join(first.id.hex()).join("record.json");
    let before = fs::read(&record).unwrap();
    let second = fixture.store.commit_image(image("kept:v1", &[&layer], "second")).unwrap();
    fixture.store.sync().unwrap();
    // As if the power had gone before the first one's record was changed.
    fs::write(&record, before).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.find("kept:v1").unwrap().id, second.id);
    let first = fixture.store.find(first.id.as_str()).unwrap();
    assert!(first.repo_tags.is_empty());
    assert_eq!(first.repo_digests.len(), 1);
}

#[test]
fn a_field_that_a_later_release_added_is_no_damage() {
    let (fixture, layer) = with_image();
    let image = fixture.store.find("kept:v1").unwrap();
    let image = fixture.root().join("images").join(image.id.hex()).join("record.json");
    for record in [image, fixture.layer(&layer).with_file_name("layer.json")] {
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replacen('{', "{\"added_later\": {\"a\": [1]},", 1)).unwrap();
    }
    let fixture = fixture.reopen();
    assert!(fixture.store.find("kept:v1").is_ok());
    assert!(fixture.store.has_layer(&layer));
}
