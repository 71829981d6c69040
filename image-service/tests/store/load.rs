//! Archives of images, as `crisp load` gets them: those that name too much, and images for other platforms.

use crisp_image_service::archive::{ArchiveError, Changes, Content};
use crisp_image_service::{Platform, Reference};

use crate::archive::{Archive, item};
use crate::fixture::{Fixture, document, image};

const CONFIG: &str = r#"{"rootfs":{"diff_ids":[]}}"#;

fn docker(images: &[String]) -> Archive {
    Archive::new().file("manifest.json", format!("[{}]", images.join(",")))
}

fn listed(config: &str, tags: &[String]) -> String {
    serde_json::json!({ "Config": config, "RepoTags": tags, "Layers": [] }).to_string()
}

fn refusal(archive: Archive) -> String {
    let fixture = Fixture::new();
    let error = fixture.store.load(&archive.tar()[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::TooMany { .. }), "{error}");
    fixture.assert_no_leftovers();
    error.to_string()
}

#[test]
fn a_list_of_more_images_than_allowed_is_refused_before_a_document_is_read() {
    let images = vec![listed("missing", &[]); 1001];
    let error = refusal(docker(&images));
    assert!(error.contains("more than 1000 images"), "{error}");
    let digest = format!("sha256:{}", "0".repeat(64));
    let descriptor = format!(r#"{{"digest":"{digest}"}}"#);
    let index = format!(r#"{{"manifests":[{}]}}"#, vec![descriptor; 1001].join(","));
    let error = refusal(Archive::new().file("index.json", index));
    assert!(error.contains("more than 1000 images"), "{error}");
}

#[test]
fn one_large_document_that_is_listed_often_is_not_read_for_each_image() {
    // Complete: only such a configuration may be that large.
    let config = r#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let padded = format!("{config}{}", " ".repeat(8_000_000));
    let images = vec![listed("c", &[]); 1000];
    let error = refusal(docker(&images).file("c", padded));
    assert!(error.contains("more than 67108864 bytes of configurations"), "{error}");
}

#[test]
fn the_documents_of_one_image_are_read_when_it_is_loaded() {
    let fixture = Fixture::new();
    let images = [listed("c", &["app:v1".to_owned()]), listed("missing", &[])];
    let error = fixture.store.load(&docker(&images).file("c", CONFIG).tar()[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::Missing(_)), "{error}");
    assert_eq!(fixture.store.list().len(), 1, "images before the first wrong one are stored");
    assert!(fixture.store.find("app:v1").is_ok());
}

#[test]
fn more_tags_than_a_list_can_hold_are_refused() {
    let tags: Vec<String> = (0..501).map(|n| format!("app:{n}")).collect();
    let images = [listed("c", &tags), listed("c", &tags)];
    let error = refusal(docker(&images).file("c", CONFIG));
    assert!(error.contains("more than 1000 tags"), "{error}");
}

#[test]
fn names_that_need_much_memory_are_refused() {
    let archive = (0..20).fold(docker(&[listed("c", &[])]).file("c", CONFIG), |archive, n| {
        archive.add(&item(b'0', "x").pax("path", format!("{n}{}", "n".repeat(900_000))))
    });
    let error = refusal(archive);
    assert!(error.contains("more than 16777216 bytes of names"), "{error}");
}

#[test]
fn an_image_whose_platform_its_index_has_corrected_can_be_saved_and_loaded() {
    let fixture = Fixture::new();
    let layer = fixture.ingest(Archive::new().file("f", "1")).unwrap();
    let mut new = image("app:v1", &[&layer], "corrected");
    // As a pull stores it: the configuration is kept as it came.
    new.config = document(String::from_utf8(new.config.bytes).unwrap().replace("amd64", "s390x"));
    let pulled = fixture.store.commit_image(new).unwrap();
    let upper = tempfile::tempdir().unwrap();
    std::fs::write(upper.path().join("g"), "2").unwrap();
    let tag = Reference::parse("app:changed").unwrap();
    let tree = (upper.path(), &Content::ALL);
    fixture.store.commit_tree(&pulled, tree, Some(tag), &Changes::default(), "test").unwrap();
    fixture.store.tag(&pulled.id, &Reference::parse("app:other").unwrap()).unwrap();

    let mut saved = Vec::new();
    fixture.store.save(&["app:changed".to_owned(), pulled.id.to_string()], &mut saved).unwrap();
    let other = Fixture::new();
    let loaded = other.store.load(&saved[..]).unwrap();
    assert_eq!(loaded.len(), 2, "{loaded:?}");
    for (name, layers) in [("app:v1", 1), ("app:other", 1), ("app:changed", 2)] {
        assert_eq!(other.store.find(name).unwrap().diff_ids.len(), layers, "{name}");
    }
}

#[test]
fn an_archive_that_says_that_it_is_for_another_platform_is_refused() {
    let fixture = Fixture::new();
    let digest = format!("sha256:{}", "0".repeat(64));
    let host = Platform::host().architecture;
    for (platform, words) in [
        (r#"{"os":"linux","architecture":"s390x"}"#.to_owned(), "there is linux/s390x"),
        // Docker's list is the one to use where the other has no platforms.
        (r#"{"os":"","architecture":""}"#.to_owned(), "no \"missing\", which"),
        (format!(r#"{{"os":"linux","architecture":"{host}"}}"#), "blobs/sha256/0000"),
    ] {
        let index = format!(r#"{{"manifests":[{{"digest":"{digest}","platform":{platform}}}]}}"#);
        let archive = docker(&[listed("missing", &[])]).file("index.json", index);
        let error = fixture.store.load(&archive.tar()[..]).unwrap_err().to_string();
        assert!(error.contains(words), "{platform}: {error}");
    }
}
