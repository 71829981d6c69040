//! Media types that do not say what is there.

use crate::support::Bench;
use crate::support::image::{DOCKER_MANIFEST, Image, Layer, OCI_MANIFEST, Packing, host_architecture};
use crate::support::server::Server;
use crate::{APP, image};

#[tokio::test]
async fn docker_and_oci_names_of_one_kind_can_be_mixed() {
    let image = image();
    let docker = Image::for_platform(image.layers.clone(), DOCKER_MANIFEST, host_architecture());
    for (image, outside) in [(&image, DOCKER_MANIFEST), (&docker, OCI_MANIFEST)] {
        let server = Server::start(&[("v1", image)], move |asked, honest| {
            let mut reply = honest?;
            if asked.target.contains("/manifests/") {
                reply.headers.retain(|(name, _)| name != "content-type");
                reply = reply.header("content-type", outside);
            }
            Some(reply)
        })
        .await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        bench.pull(APP).await.unwrap();
    }
    let types = ["vnd.docker.image.rootfs.diff.tar.gzip", "vnd.oci.image.layer.v1.tar+gzip"];
    for (image, [from, to]) in [(&docker, types), (&image, [types[1], types[0]])] {
        let manifest = String::from_utf8(image.manifest.clone()).unwrap();
        let changed = manifest.replacen(from, to, 1);
        assert_ne!(manifest, changed);
        let (config, blobs) = (image.config.clone(), image.blobs.clone());
        let mixed = Image::from_manifest(changed, image.media_type, config, vec![], blobs);
        let server = Server::honest(&[("v1", &mixed)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        bench.pull(APP).await.unwrap();
    }
}

#[tokio::test]
async fn layers_are_unpacked_by_their_content_whatever_their_label_says() {
    let kinds = [(Packing::Plain, "tar", "tar+gzip"), (Packing::Zstd, "tar+zstd", "tar+gzip")];
    for (packing, right, wrong) in kinds.into_iter().chain([(Packing::Gzip, "tar+gzip", "tar")]) {
        let image = Image::new(vec![Layer::new(&[("file", b"content")], packing)]);
        let manifest = String::from_utf8(image.manifest.clone()).unwrap();
        let changed = manifest.replacen(&format!("layer.v1.{right}\""), &format!("layer.v1.{wrong}\""), 1);
        assert_ne!(manifest, changed);
        let mislabelled = Image::from_manifest(
            changed,
            image.media_type,
            image.config.clone(),
            image.layers.clone(),
            image.blobs.clone(),
        );
        let server = Server::honest(&[("v1", &mislabelled)]).await;
        let bench = Bench::new().await;
        bench.endpoints(&[&server.url()]);
        bench.pull(APP).await.unwrap();
        assert_eq!(bench.read(APP, "file").unwrap(), b"content", "{right} labelled {wrong}");
    }
}
