//! The ImageService RPCs over a store with images in it. Pulling has tests of its own.

use std::collections::HashSet;

use crisp_image_service::{ImageConfig, ImageService};
use crisp_metrics::Metrics;
use crisp_proto::runtime::v1::image_service_server::ImageService as Contract;
use crisp_proto::runtime::v1::*;
use tonic::{Code, Request};

use crate::archive::Archive;
use crate::fixture::{diff_of, image};

struct Served {
    _folder: tempfile::TempDir,
    service: ImageService,
}

async fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let config = ImageConfig { root: folder.path().to_owned(), ..ImageConfig::default() };
    let service = ImageService::open(config, &Metrics::new("test").unwrap()).await.unwrap();
    service.store().start_collection().unwrap();
    let tar = Archive::new().file("f", vec![1; 10_000]).tar();
    let diff = diff_of(&tar);
    service.store().ingest_layer(&diff, &tar[..]).unwrap();
    service.store().commit_image(image("app:v1", &[&diff], "one")).unwrap();
    service.store().commit_image(image("app:v2", &[&diff], "two")).unwrap();
    Served { _folder: folder, service }
}

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() })
}

fn filter(image: &str) -> Option<ImageFilter> {
    Some(ImageFilter { image: spec(image) })
}

async fn list(service: &ImageService, filter: Option<ImageFilter>) -> Result<Vec<Image>, tonic::Status> {
    let reply = service.list_images(Request::new(ListImagesRequest { filter })).await?;
    Ok(reply.into_inner().images)
}

async fn status(
    service: &ImageService,
    image: &str,
    verbose: bool,
) -> Result<ImageStatusResponse, tonic::Status> {
    let request = ImageStatusRequest { image: spec(image), verbose };
    Ok(service.image_status(Request::new(request)).await?.into_inner())
}

async fn remove(service: &ImageService, image: &str) -> Result<(), tonic::Status> {
    service.remove_image(Request::new(RemoveImageRequest { image: spec(image) })).await.map(|_| ())
}

#[tokio::test]
async fn lists_are_filtered_by_any_name() {
    let served = served().await;
    let service = &served.service;
    assert_eq!(list(service, None).await.unwrap().len(), 2);
    assert_eq!(list(service, filter("")).await.unwrap().len(), 2);
    let one = list(service, filter("app:v1")).await.unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].repo_tags, ["docker.io/library/app:v1"]);
    assert_eq!(list(service, filter(&one[0].id)).await.unwrap(), one);
    assert!(list(service, filter("missing")).await.unwrap().is_empty());
    assert_eq!(list(service, filter("Not A Name")).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_status_says_who_runs_it_and_what_is_in_it() {
    let served = served().await;
    let reply = status(&served.service, "app:v1", true).await.unwrap();
    let image = reply.image.unwrap();
    assert_eq!((image.uid, image.username.as_str()), (Some(Int64Value { value: 1000 }), ""));
    assert!(image.size >= 10_000 && !image.pinned && image.repo_digests.len() == 1);
    let info: serde_json::Value = serde_json::from_str(&reply.info["info"]).unwrap();
    assert_eq!(info["imageSpec"]["config"]["Cmd"][0], "/hello");
    assert!(status(&served.service, "app:v1", false).await.unwrap().info.is_empty());
    assert_eq!(status(&served.service, "missing", true).await.unwrap(), ImageStatusResponse::default());
    assert_eq!(status(&served.service, "", false).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(status(&served.service, "a//b", false).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn removal_by_name_takes_only_that_name_and_by_id_the_image() {
    let served = served().await;
    let service = &served.service;
    let store = service.store();
    store.commit_image(image("app:also", &[], "many names")).unwrap();
    let id = store.commit_image(image("app:more", &[], "many names")).unwrap().id.to_string();
    let tags = || store.find(&id).map(|image| image.repo_tags.clone()).unwrap_or_default();
    assert_eq!(tags().len(), 2);
    remove(service, "app:also").await.unwrap();
    assert_eq!(tags(), ["docker.io/library/app:more"]);
    store.commit_image(image("app:also", &[], "many names")).unwrap();
    remove(service, &id).await.unwrap();
    assert!(tags().is_empty());
    store.commit_image(image("app:last", &[], "many names")).unwrap();
    remove(service, "app:last").await.unwrap();
    assert!(store.find(&id).is_err(), "the image goes with its last tag");
}

#[tokio::test]
async fn removal_may_be_repeated() {
    let served = served().await;
    let service = &served.service;
    let id = list(service, filter("app:v1")).await.unwrap()[0].id.clone();
    remove(service, "app:v1").await.unwrap();
    remove(service, "app:v1").await.unwrap();
    remove(service, &id).await.unwrap();
    assert_eq!(list(service, None).await.unwrap().len(), 1);
    assert_eq!(remove(service, "").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn usage_goes_with_the_last_image() {
    let served = served().await;
    let service = &served.service;
    let usage = async || {
        let reply = service.image_fs_info(Request::new(ImageFsInfoRequest {})).await.unwrap().into_inner();
        let fs = reply.image_filesystems[0].clone();
        assert!(fs.timestamp > 1_700_000_000_000_000_000);
        assert_eq!(reply.container_filesystems[0].fs_id, fs.fs_id);
        assert!(std::path::Path::new(&fs.fs_id.unwrap().mountpoint).is_dir());
        (fs.used_bytes.unwrap().value, fs.inodes_used.unwrap().value)
    };
    let (bytes, inodes) = usage().await;
    assert!(bytes >= 10_000 && inodes == 2, "{bytes} {inodes}");
    remove(service, "app:v1").await.unwrap();
    assert_eq!(usage().await, (bytes, inodes), "the other image has the same layer");
    remove(service, "app:v2").await.unwrap();
    assert_eq!(usage().await, (0, 0));
}

#[tokio::test]
async fn streams_come_in_pieces_and_miss_nothing() {
    let served = served().await;
    for n in 0..150 {
        served.service.store().commit_image(image(&format!("many:{n}"), &[], &n.to_string())).unwrap();
    }
    let request = Request::new(StreamImagesRequest { filter: None });
    let mut stream = served.service.stream_images(request).await.unwrap().into_inner();
    let (mut replies, mut ids) = (0, HashSet::new());
    while let Some(reply) = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await {
        replies += 1;
        ids.extend(reply.unwrap().images.into_iter().map(|image| image.id));
    }
    assert!(replies > 1, "one reply would do for {} images", ids.len());
    let listed = list(&served.service, None).await.unwrap();
    assert_eq!(ids, listed.into_iter().map(|image| image.id).collect());
}
