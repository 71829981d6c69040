//! Archives of images, as `crisp load` gets them, that name too much.

use crisp_image_service::archive::ArchiveError;

use crate::archive::{Archive, item};
use crate::fixture::Fixture;

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
