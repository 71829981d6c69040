//! The ImageService.

use std::path::Path;

use crisp_e2e::image::Built;
use crisp_e2e::{Compression, Image, Layer, Registry, Result, says};
use k8s_cri::v1::{
    AuthConfig, ContainerConfig, ImageFilter, ImageFsInfoRequest, ImageSpec, ImageStatusRequest,
    ListImagesRequest, ListImagesResponse, PullImageRequest, RemoveImageRequest,
};
use prost::Message as _;
use serde_json::json;
use tonic::Status;

use crate::cri::{Cri, unique};
use crate::newer;

promises! {
    a_pulled_image_is_there: Cri, ["PullImage", "PullImageRequest.image", "PullImageResponse.image_ref", "ImageStatus",
        "ImageStatusRequest.image", "ImageStatusResponse.image", "Image.id", "Image.size"],
        "PullImage answers a reference under which the image is on the node, with an id and a size";
    an_absent_image_has_no_status: Cri, ["ImageStatusResponse.image"],
        "The status of an image that is not on the node is empty, and no error";
    an_image_has_its_tags_and_digests: Cri, ["Image.repo_tags", "Image.repo_digests"],
        "A pulled image has its tag, and its digest as the registry has it";
    an_image_is_pulled_by_digest: Kubernetes, ["ImageSpec.image"],
        "An image is pulled by its digest, and then has no tag";
    two_tags_are_one_image: Cri, ["Image.repo_tags"],
        "Two tags of the same content are one image with both";
    a_tag_that_moved_is_pulled_anew: Kubernetes, ["PullImage"],
        "Pulling a tag again brings what it leads to now";
    an_image_has_its_user: Cri, ["Image.uid", "Image.username"],
        "An image has its user as a number or else as a name, not both";
    an_images_status_has_info_when_it_is_verbose: Cri, ["ImageStatusRequest.verbose", "ImageStatusResponse.info"],
        "An image's status has info when it is asked for, and else none";
    images_are_listed: Cri, ["ListImages", "ListImagesRequest.filter", "ListImagesResponse.images",
        "ImageFilter.image"],
        "ListImages has every image, and by a reference that one alone",
        containerd: "others than the one that was asked for";
    images_are_streamed: Cri, ["StreamImages", "StreamImagesRequest.filter", "StreamImagesResponse.images"],
        "StreamImages sends what ListImages lists, with the same filter",
        containerd: "others than the one that was asked for";
    an_image_is_removed_under_all_names: Cri, ["RemoveImage", "RemoveImageRequest.image"],
        "An image that is removed by its id is gone under each of its names";
    an_image_is_removed_any_number_of_times: Cri, ["RemoveImage"],
        "Removing an image that was removed, or never was, succeeds";
    a_missing_image_is_an_error: Kubernetes, ["PullImage"],
        "A pull of what the registry does not have is an error with the image's name";
    the_nodes_platform_is_pulled: Kubernetes, ["PullImage"],
        "Of an index the image for the node's architecture is pulled";
    formats_of_docker_and_zstd_are_pulled: Kubernetes, ["PullImage"],
        "Images in Docker's format, and layers with zstd, gzip and no compression, are pulled and run";
    credentials_open_a_locked_registry: Cri, ["PullImageRequest.auth", "AuthConfig.username", "AuthConfig.password",
        "AuthConfig.auth"],
        "A registry with a password gives an image for the right credentials, apart or encoded";
    wrong_credentials_are_refused: Kubernetes, ["PullImageRequest.auth"],
        "Without credentials, or with wrong ones, the pull is an error that does not have the password";
    layers_are_stacked: Kubernetes, ["PullImage"],
        "Upper layers replace, add and remove files of lower ones";
    a_file_system_of_images_is_measured: Cri, ["ImageFsInfo", "ImageFsInfoResponse.image_filesystems",
        "FilesystemUsage.used_bytes", "FilesystemUsage.inodes_used"],
        "ImageFsInfo has the folder of the images on the node and how much they use, which grows with a pull";
}

fn spec(reference: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: reference.into(), ..Default::default() })
}

async fn status(cri: &mut Cri, reference: &str) -> Result<Option<k8s_cri::v1::Image>> {
    let request = ImageStatusRequest { image: spec(reference), verbose: false };
    Ok(cri.client.images.image_status(request).await?.into_inner().image)
}

async fn present(cri: &mut Cri, reference: &str) -> Result<k8s_cri::v1::Image> {
    status(cri, reference).await?.ok_or_else(|| format!("{reference} is not there").into())
}

async fn remove(cri: &mut Cri, reference: &str) -> Result<(), Status> {
    cri.client.images.remove_image(RemoveImageRequest { image: spec(reference) }).await.map(drop)
}

/// An image that no other test uses.
fn small() -> Image {
    Image::new().layer(Layer::new().file("unique", 0o644, unique("content").as_bytes()))
}

async fn a_pulled_image_is_there(cri: &mut Cri) -> Result<()> {
    let built = small().build();
    let reference = cri.registry().push(&unique("image"), "1", &built)?;
    let pulled = cri.client.pull(&reference).await?;
    for name in [&pulled, &reference] {
        let image = present(cri, name).await?;
        assert_eq!(image.id, built.id);
        assert!(image.size > 0, "{image:?}");
    }
    Ok(())
}

async fn an_absent_image_has_no_status(cri: &mut Cri) -> Result<()> {
    let absent = format!("{}/never/pushed:1", cri.registry().host);
    assert_eq!(status(cri, &absent).await?, None);
    Ok(())
}

fn by_digest(reference: &str, built: &Built) -> String {
    let name = reference.rsplit_once(':').map_or(reference, |(name, _)| name);
    format!("{name}@{}", built.manifest.digest)
}

async fn an_image_has_its_tags_and_digests(cri: &mut Cri) -> Result<()> {
    let built = small().build();
    let reference = cri.image(&built).await?;
    let image = present(cri, &reference).await?;
    assert_eq!(image.repo_tags, std::slice::from_ref(&reference));
    assert_eq!(image.repo_digests, [by_digest(&reference, &built)]);
    Ok(())
}

async fn an_image_is_pulled_by_digest(cri: &mut Cri) -> Result<()> {
    let built = small().build();
    let reference = cri.registry().push(&unique("image"), "1", &built)?;
    let digest = by_digest(&reference, &built);
    cri.client.pull(&digest).await?;
    let image = present(cri, &digest).await?;
    assert_eq!((image.id, image.repo_tags.len(), image.repo_digests), (built.id, 0, vec![digest]));
    Ok(())
}

async fn two_tags_are_one_image(cri: &mut Cri) -> Result<()> {
    let built = small().build();
    let name = unique("image");
    let mut tags = Vec::new();
    for tag in ["one", "two"] {
        let reference = cri.registry().push(&name, tag, &built)?;
        cri.client.pull(&reference).await?;
        tags.push(reference);
    }
    for reference in &tags {
        let mut image = present(cri, reference).await?;
        image.repo_tags.sort();
        assert_eq!(image.repo_tags, tags);
    }
    Ok(())
}

async fn a_tag_that_moved_is_pulled_anew(cri: &mut Cri) -> Result<()> {
    let name = unique("image");
    for built in [small().build(), small().build()] {
        let reference = cri.registry().push(&name, "latest", &built)?;
        cri.client.pull(&reference).await?;
        assert_eq!(present(cri, &reference).await?.id, built.id);
    }
    Ok(())
}

async fn an_image_has_its_user(cri: &mut Cri) -> Result<()> {
    for (user, uid, name) in [("1234", Some(1234), ""), ("1234:5", Some(1234), ""), ("app", None, "app")] {
        let reference = cri.image(&small().config("User", json!(user)).build()).await?;
        let image = present(cri, &reference).await?;
        assert_eq!((image.uid.map(|uid| uid.value), image.username.as_str()), (uid, name), "{user}");
    }
    Ok(())
}

async fn an_images_status_has_info_when_it_is_verbose(cri: &mut Cri) -> Result<()> {
    let reference = cri.image.clone();
    for verbose in [false, true] {
        let request = ImageStatusRequest { image: spec(&reference), verbose };
        let info = cri.client.images.image_status(request).await?.into_inner().info;
        assert_eq!(info.is_empty(), !verbose, "{info:?}");
    }
    Ok(())
}

async fn images_are_listed(cri: &mut Cri) -> Result<()> {
    let (one, other) = (cri.image(&small().build()).await?, cri.image(&small().build()).await?);
    let all = cri.client.images.list_images(ListImagesRequest { filter: None }).await?.into_inner().images;
    for reference in [&one, &other] {
        assert!(all.iter().any(|image| image.repo_tags.contains(reference)), "{reference} is not listed");
    }
    let filter = Some(ImageFilter { image: spec(&one) });
    let listed = cri.client.images.list_images(ListImagesRequest { filter }).await?.into_inner().images;
    assert!(listed == [present(cri, &one).await?], "others than the one that was asked for: {listed:?}");
    Ok(())
}

async fn images_are_streamed(cri: &mut Cri) -> Result<()> {
    let one = cri.image(&small().build()).await?;
    let request = ListImagesRequest { filter: Some(ImageFilter { image: spec(&one) }) }.encode_to_vec();
    let streamed: ListImagesResponse =
        newer::joined(&cri.client, "ImageService", "StreamImages", request).await?;
    let images = streamed.images;
    assert!(images == [present(cri, &one).await?], "others than the one that was asked for: {images:?}");
    Ok(())
}

async fn an_image_is_removed_under_all_names(cri: &mut Cri) -> Result<()> {
    let built = small().build();
    let name = unique("image");
    let mut names = vec![built.id.clone()];
    for tag in ["one", "two"] {
        let reference = cri.registry().push(&name, tag, &built)?;
        cri.client.pull(&reference).await?;
        names.push(reference);
    }
    remove(cri, &built.id).await?;
    for name in names {
        assert_eq!(status(cri, &name).await?, None, "{name}");
    }
    Ok(())
}

async fn an_image_is_removed_any_number_of_times(cri: &mut Cri) -> Result<()> {
    let reference = cri.image(&small().build()).await?;
    for _ in 0..2 {
        remove(cri, &reference).await?;
    }
    let never = format!("{}/never/pushed:1", cri.registry().host);
    remove(cri, &never).await?;
    Ok(())
}

async fn a_missing_image_is_an_error(cri: &mut Cri) -> Result<()> {
    let absent = format!("{}/never/pushed:1", cri.registry().host);
    let refused = cri.client.pull(&absent).await.expect_err("it was never pushed");
    says(&refused, &["never/pushed"]);
    Ok(())
}

async fn the_nodes_platform_is_pulled(cri: &mut Cri) -> Result<()> {
    let name = unique("image");
    let (foreign, own) = (small().platform("linux", "s390x").build(), small().build());
    for (tag, image) in [("foreign", &foreign), ("own", &own)] {
        cri.registry().push(&name, tag, image)?;
    }
    let index = cri.registry().push_index(&name, "all", &[foreign, own.clone()])?;
    cri.client.pull(&index).await?;
    assert_eq!(present(cri, &index).await?.id, own.id);
    Ok(())
}

async fn formats_of_docker_and_zstd_are_pulled(cri: &mut Cri) -> Result<()> {
    let layer = |name: &str| Layer::new().file(name, 0o644, name.as_bytes());
    let docker = Image::busybox().layer(layer("gzip")).docker().build();
    let mixed = Image::busybox()
        .layer(layer("zstd").compressed(Compression::Zstd))
        .layer(layer("plain").compressed(Compression::None))
        .build();
    for (image, line, expected) in [(docker, "cat /gzip", "gzip"), (mixed, "cat /zstd /plain", "zstdplain")] {
        let reference = cri.image(&image).await?;
        let config = ContainerConfig { image: spec(&reference), ..cri.shell(line) };
        assert_eq!(cri.output(&config).await?.trim_end(), expected);
    }
    Ok(())
}

/// user:secret.
const HTPASSWD: &str = "user:$2b$05$y9L6SN0J1RRjauyEbaYaY.jjpI7SljPz7mOF3UXsicD0NLhXxYC/m\n";
const ENCODED: &str = "dXNlcjpzZWNyZXQ=";

/// A registry that requires a password, with an image that was pushed to an open one on the same folder.
fn locked(folder: &Path) -> Result<(Registry, String)> {
    let open = Registry::start(folder)?;
    let reference = open.push("locked", "1", &small().build())?;
    let host = open.host.clone();
    drop(open);
    let file = folder.join("htpasswd");
    std::fs::write(&file, HTPASSWD)?;
    let path = file.display().to_string();
    let settings = [
        ("REGISTRY_AUTH", "htpasswd"),
        ("REGISTRY_AUTH_HTPASSWD_REALM", "locked"),
        ("REGISTRY_AUTH_HTPASSWD_PATH", path.as_str()),
    ];
    Ok((Registry::start_at(&host, folder, &settings)?, reference))
}

async fn pull_as(cri: &mut Cri, reference: &str, auth: Option<AuthConfig>) -> Result<(), Status> {
    let request = PullImageRequest { image: spec(reference), auth, ..Default::default() };
    cri.client.images.pull_image(request).await.map(drop)
}

fn login(password: &str) -> AuthConfig {
    AuthConfig { username: "user".into(), password: password.into(), ..Default::default() }
}

async fn credentials_open_a_locked_registry(cri: &mut Cri) -> Result<()> {
    let (_registry, reference) = locked(&cri.new_folder()?)?;
    for auth in [login("secret"), AuthConfig { auth: ENCODED.into(), ..Default::default() }] {
        pull_as(cri, &reference, Some(auth)).await?;
        present(cri, &reference).await?;
        remove(cri, &reference).await?;
    }
    Ok(())
}

async fn wrong_credentials_are_refused(cri: &mut Cri) -> Result<()> {
    let (_registry, reference) = locked(&cri.new_folder()?)?;
    for auth in [None, Some(login("hunter2"))] {
        let refused = pull_as(cri, &reference, auth).await.expect_err("the registry is locked");
        assert!(!refused.message().contains("hunter2"), "{refused}");
    }
    assert_eq!(status(cri, &reference).await?, None);
    Ok(())
}

async fn layers_are_stacked(cri: &mut Cri) -> Result<()> {
    let lower = Layer::new()
        .file("replaced", 0o644, b"old")
        .file("removed", 0o644, b"")
        .folder("opaque/", 0o755)
        .file("opaque/old", 0o644, b"");
    let upper = Layer::new()
        .file("replaced", 0o600, b"new")
        .file(".wh.removed", 0o644, b"")
        .folder("opaque/", 0o755)
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("opaque/new", 0o644, b"");
    let reference = cri.image(&Image::busybox().layer(lower).layer(upper).build()).await?;
    let line = "cat /replaced; stat -c ' %a' /replaced; test ! -e /removed; ls /opaque";
    let config = ContainerConfig { image: spec(&reference), ..cri.shell(line) };
    assert_eq!(cri.output(&config).await?, "new 600\nnew\n");
    Ok(())
}

async fn a_file_system_of_images_is_measured(cri: &mut Cri) -> Result<()> {
    let mut used = Vec::new();
    for pull in [false, true] {
        if pull {
            let mut layer = Layer::new();
            for number in 0..50 {
                layer = layer.file(&unique(&format!("f{number}")), 0o644, &[7; 100_000]);
            }
            cri.image(&Image::new().layer(layer).build()).await?;
        }
        // A runtime may measure at its own pace.
        for _ in 0..100 {
            let info = cri.client.images.image_fs_info(ImageFsInfoRequest {}).await?.into_inner();
            let usage = info.image_filesystems.first().ok_or("no file system")?;
            let mountpoint = usage.fs_id.clone().ok_or("no mount point")?.mountpoint;
            assert!(Path::new(&mountpoint).is_dir() && usage.timestamp > 0, "{usage:?}");
            let value = |field: Option<k8s_cri::v1::UInt64Value>| field.map_or(0, |field| field.value);
            let now = (value(usage.used_bytes), value(usage.inodes_used));
            let is_more = |then: &(u64, u64)| now.0 >= then.0 + 4_000_000 && now.1 >= then.1 + 40;
            if now.0 > 0 && used.first().is_none_or(is_more) {
                used.push(now);
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        }
    }
    assert_eq!(used.len(), 2, "what a pull brought is not counted: {used:?}");
    Ok(())
}
