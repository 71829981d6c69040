//! Numbers and texts without measure.

use crisp_image_service::ErrorKind;

use crate::support::Bench;
use crate::support::image::{Image, Layer, OCI_MANIFEST, Packing};
use crate::support::server::{Reply, Server};
use crate::{APP, image};

#[tokio::test]
async fn an_endless_retry_after_does_not_end_the_server() {
    for endless in ["18446744073709551615", "99999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        let server =
            Server::start(&[], move |_, _| Some(Reply::new(429).header("retry-after", endless))).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        let error = bench.pull(APP).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    }
}

#[tokio::test]
async fn absurd_numbers_of_a_registry_end_one_pull_and_nothing_else() {
    let image = image();
    let digest = &image.layers[0].digest;
    let size = format!("\"size\":{}", image.layers[0].blob.len());
    for (what, manifest_size, length, range) in [
        ("a size of 2^64-1", "18446744073709551615", None, None),
        ("a size of 2^63-1", "9223372036854775807", None, None),
        ("a range at 2^64-1", "400000", None, Some("bytes 18446744073709551615-18446744073709551615/*")),
        ("a length of 2^64-2 from a range", "400000", Some("18446744073709551614"), Some("bytes 5-/9")),
    ] {
        let text = String::from_utf8(image.manifest.clone()).unwrap();
        let changed = text.replace(&size, &format!("\"size\":{manifest_size}"));
        assert_ne!(text, changed);
        let lying =
            Image::from_manifest(changed, OCI_MANIFEST, image.config.clone(), vec![], image.blobs.clone());
        let blob = format!("/blobs/{digest}");
        let server = Server::start(&[("v1", &lying)], move |asked, honest| {
            if !asked.target.contains(&blob) || (length.is_none() && range.is_none()) {
                return honest;
            }
            let mut reply = Reply::new(206).header("content-range", range.unwrap());
            if let Some(length) = length {
                reply = reply.header("content-length", length);
            }
            Some(reply.body(b"abc".to_vec()))
        })
        .await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        bench.pull(APP).await.expect_err(what);
        assert!(bench.images.list().is_empty() && bench.leftovers().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn the_text_of_an_absurd_document_is_cut() {
    let long = "a".repeat(3 << 20);
    let digest = format!("sha256:{}", "0".repeat(64));
    let entry = |platform: &str| {
        format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":1,"platform":{platform}}}"#)
    };
    let many = vec![entry(r#"{"os":"plan9","architecture":"mips"}"#); 10_000].join(",");
    let large = entry(&format!(r#"{{"os":"{long}","architecture":"mips"}}"#));
    let url = format!(r#"{{"digest":"{digest}","size":1,"urls":["{long}"]}}"#);
    let config = format!(r#"{{"digest":"{digest}","size":1}}"#);
    let artifact = format!(r#"{{"mediaType":"{long}","digest":"{digest}","size":1}}"#);
    let (path, item) = (format!("{long}/f"), image().config);
    let header = tar_with_long_name(&path);
    let unpackable = Image::new(vec![Layer::of_tar(&header, Packing::Zstd)]);
    let of =
        |text: String| Image::from_manifest(text, OCI_MANIFEST, item.clone(), vec![], Default::default());
    let with_config = |config: String| Image::with_config(vec![], OCI_MANIFEST, config.into_bytes());
    for (what, image) in [
        ("media type", of(format!(r#"{{"mediaType":"{long}"}}"#))),
        ("number", of(format!(r#"{{"schemaVersion":"{long}"}}"#))),
        ("platforms", of(format!(r#"{{"mediaType":"{OCI_MANIFEST}","manifests":[{many}]}}"#))),
        ("platform", of(format!(r#"{{"manifests":[{large}]}}"#))),
        ("address", of(format!(r#"{{"config":{config},"layers":[{url}]}}"#))),
        ("artifact", of(format!(r#"{{"config":{artifact},"layers":[]}}"#))),
        ("system", with_config(format!(r#"{{"os":"{long}"}}"#))),
        ("variables", with_config(format!(r#"{{"config":{{"Env":"{long}"}}}}"#))),
        ("name in a layer", unpackable),
    ] {
        let server = Server::honest(&[("v1", &image)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        let error = bench.pull(APP).await.unwrap_err().to_string();
        assert!(error.len() < 4096, "{what}: {} bytes: {}", error.len(), &error[..1000]);
    }
}

/// An archive with one entry whose name is in a pax header.
fn tar_with_long_name(path: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let path = &path[..900_000];
    archive.append_pax_extensions([("path", path.as_bytes())]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("short").unwrap();
    header.set_size(0);
    header.set_cksum();
    archive.append(&header, &[][..]).unwrap();
    archive.into_inner().unwrap()
}
