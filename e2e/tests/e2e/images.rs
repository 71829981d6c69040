//! The ImageService: pulls, lists and removes images, and refuses bad content of registries.

use crisp_e2e::image::{Blob, digest};
use crisp_e2e::{Client, Compression, Image, Layer, Machine, Result, needs, says};
use k8s_cri::v1::{
    Image as Listed, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest, RemoveImageRequest,
};
use serde_json::json;
use tonic::Code;

fn spec(reference: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: reference.into(), ..Default::default() })
}

async fn status(client: &mut Client, reference: &str) -> Result<Option<Listed>> {
    let request = ImageStatusRequest { image: spec(reference), verbose: false };
    Ok(client.images.image_status(request).await?.into_inner().image)
}

fn small(text: &str) -> Image {
    let layer = Layer::new().file("hello", 0o755, text.as_bytes());
    Image::new().layer(layer).config("Cmd", json!(["/hello"])).config("User", json!("1000"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_told_and_removed() -> Result<()> {
    needs!("docker-registry");
    let machine = Machine::start().await?;
    let built = small("one").build();
    let reference = machine.registry().push("team/app", "1.0", &built)?;
    let by_digest = format!("{}/team/app@{}", machine.registry().host, built.manifest.digest);
    let mut client = machine.client().await?;
    assert_eq!(status(&mut client, &reference).await?, None);
    let id = client.pull(&reference).await?;
    client.pull(&by_digest).await?;
    let image = status(&mut client, &reference).await?.ok_or("pulled, yet unknown")?;
    assert_eq!(
        (&image.id, &image.repo_tags, &image.repo_digests),
        (&built.id, &vec![reference.clone()], &vec![by_digest.clone()])
    );
    assert!(image.size > 0 && image.uid.is_some_and(|u| u.value == 1000), "{image:?}");
    for name in [&id, &built.id, &by_digest, &built.id[7..20].to_owned()] {
        assert_eq!(status(&mut client, name).await?.map(|i| i.id), Some(built.id.clone()), "{name}");
    }
    let list = client.images.list_images(ListImagesRequest::default()).await?.into_inner().images;
    assert_eq!(list.len(), 1);
    client.images.remove_image(RemoveImageRequest { image: spec(&built.id) }).await?;
    client.images.remove_image(RemoveImageRequest { image: spec(&built.id) }).await?;
    assert_eq!(status(&mut client, &reference).await?, None);
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_image_arrives() -> Result<()> {
    needs!("docker-registry");
    let machine = Machine::start().await?;
    let mut client = machine.client().await?;
    let registry = machine.registry();
    let forms = [
        ("gzip", small("gzip")),
        ("docker", small("docker").docker()),
        ("zstd", Image::new().layer(Layer::new().file("a", 0o644, b"z").compressed(Compression::Zstd))),
        ("plain", Image::new().layer(Layer::new().file("a", 0o644, b"p").compressed(Compression::None))),
    ];
    for (name, image) in forms {
        let image = image.build();
        let reference = registry.push(&format!("form/{name}"), "1", &image)?;
        client.pull(&reference).await.map_err(|s| format!("{name}: {s}"))?;
        assert!(status(&mut client, &reference).await?.is_some_and(|i| i.id == image.id), "{name}");
    }
    let (ours, other) = (small("ours").build(), small("other").platform("linux", "s390x").build());
    registry.push("multi", "ours", &ours)?;
    registry.push("multi", "other", &other)?;
    let index = registry.push_index("multi", "all", &[other.clone(), ours.clone()])?;
    client.pull(&index).await?;
    assert!(status(&mut client, &index).await?.is_some_and(|i| i.id == ours.id));
    let foreign = registry.push_index("multi", "foreign", &[other])?;
    let refused = client.pull(&foreign).await.expect_err("no image for this machine");
    says(&refused, &["s390x", "linux/amd64"]);
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_usage_is_real() -> Result<()> {
    needs!("docker-registry");
    let machine = Machine::start().await?;
    let mut client = machine.client().await?;
    let used = async |client: &mut Client| -> Result<u64> {
        let info = client.images.image_fs_info(ImageFsInfoRequest {}).await?.into_inner();
        let fs = info.image_filesystems.first().cloned().ok_or("no image file system")?;
        Ok(fs.used_bytes.map_or(0, |v| v.value))
    };
    let before = used(&mut client).await?;
    let layer = Layer::new().file("big", 0o644, &vec![7; 5 << 20]);
    let reference = machine.registry().push("big", "1", &Image::new().layer(layer).build())?;
    client.pull(&reference).await?;
    let grown = used(&mut client).await? - before;
    assert!((5 << 20..6 << 20).contains(&grown), "{grown}");
    client.images.remove_image(RemoveImageRequest { image: spec(&reference) }).await?;
    let after = used(&mut client).await?;
    assert!(after < before + (1 << 20), "{before} before, {after} after");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn references_that_lead_nowhere_say_why() -> Result<()> {
    needs!("docker-registry");
    let machine = Machine::start().await?;
    let mut client = machine.client().await?;
    let host = machine.registry().host.clone();
    let built = small("x").build();
    machine.registry().push("known", "1", &built)?;
    for (reference, code, words) in [
        ("example.test/UPPER/case".to_owned(), Code::InvalidArgument, vec!["UPPER"]),
        (String::new(), Code::InvalidArgument, vec!["image"]),
        (format!("{host}/known:no such tag"), Code::InvalidArgument, vec!["no such tag"]),
        (format!("{host}/known@sha256:12"), Code::InvalidArgument, vec!["sha256:12"]),
        (format!("{host}/unknown:1"), Code::NotFound, vec!["unknown", &host]),
        (format!("{host}/known:2"), Code::NotFound, vec!["known:2"]),
        ("127.0.0.1:1/known:1".to_owned(), Code::Unavailable, vec!["127.0.0.1:1"]),
        (format!("{host}/known@{}", digest(b"else")), Code::NotFound, vec!["sha256:"]),
    ] {
        let refused = client.pull(&reference).await.expect_err(&reference);
        assert_eq!(refused.code(), code, "{reference}: {refused}");
        says(&refused, &words.iter().map(|w| &**w).collect::<Vec<_>>());
    }
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_lies_is_refused_and_leaves_nothing() -> Result<()> {
    needs!("docker-registry");
    let machine = Machine::start().await?;
    let mut client = machine.client().await?;
    let lie = |change: &dyn Fn(&mut serde_json::Value)| -> Result<crisp_e2e::image::Built> {
        let mut built = small("true").build();
        let mut manifest: serde_json::Value = serde_json::from_slice(&built.manifest.bytes)?;
        change(&mut manifest);
        built.manifest = Blob::new(built.manifest.media_type, manifest.to_string().into_bytes());
        Ok(built)
    };
    let other = small("other").build();
    let (size, layer) = (
        lie(&|m| m["layers"][0]["size"] = json!(5))?,
        lie(&|m| m["layers"][0] = other.blobs[0].descriptor())?,
    );
    for (name, built, words) in
        [("size", size, ["size", "5"]), ("layer", layer, ["sha256:", "does not match"])]
    {
        for blob in &other.blobs {
            machine.registry().push_blob(&format!("lie/{name}"), blob)?;
        }
        let reference = machine.registry().push(&format!("lie/{name}"), "1", &built)?;
        let refused = client.pull(&reference).await.expect_err(name);
        says(&refused, &words);
        assert_eq!(status(&mut client, &reference).await?, None, "{name}");
    }
    // A layer that is not an archive, and one that ends in the middle.
    for (name, layer) in [
        ("noise", Layer::raw(vec![0xa5; 3000])),
        (
            "short",
            Layer::raw({
                let mut header = tar_header("file", 9000);
                header.extend([1; 100]);
                header
            }),
        ),
    ] {
        let reference =
            machine.registry().push(&format!("bad/{name}"), "1", &Image::new().layer(layer).build())?;
        let refused = client.pull(&reference).await.err();
        // The builder ends every archive properly, so an entry that is too short takes the end blocks as its
        // content.
        assert!(refused.is_some(), "{name} was taken");
        assert_eq!(status(&mut client, &reference).await?, None, "{name}");
    }
    // Layers that wait for deletion are removed soon.
    let asked = std::time::Instant::now();
    let mut layers = layer_folders(&machine.root().join("layers"))?;
    while !layers.is_empty() && asked.elapsed() < std::time::Duration::from_secs(10) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        layers = layer_folders(&machine.root().join("layers"))?;
    }
    assert_eq!(layers, Vec::<std::ffi::OsString>::new(), "layers of refused images stay behind");
    machine.close().await
}

/// The folders of layers, of unfinished layers and of deleted ones; the last two are in folders that stay.
fn layer_folders(root: &std::path::Path) -> Result<Vec<std::ffi::OsString>> {
    let mut layers = Vec::new();
    for entry in std::fs::read_dir(root)?.flatten() {
        match entry.file_name().to_string_lossy().starts_with('.') {
            true => layers.extend(std::fs::read_dir(entry.path())?.flatten().map(|e| e.file_name())),
            false => layers.push(entry.file_name()),
        }
    }
    Ok(layers)
}

fn tar_header(name: &str, size: u64) -> Vec<u8> {
    let mut header = vec![0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..136].copy_from_slice(format!("{size:011o} ").as_bytes());
    header[156] = b'0';
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_break_the_next_pull() -> Result<()> {
    needs!("docker-registry");
    let machine = Machine::start().await?;
    let layers = (0..4).map(|n| Layer::new().file("big", 0o644, &vec![n; 8 << 20]));
    let image = layers.fold(Image::new(), Image::layer).build();
    let reference = machine.registry().push("slow", "1", &image)?;
    for wait in [1, 10, 40] {
        let mut leaving = machine.client().await?;
        let pull = leaving.pull(&reference);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(wait), pull).await;
    }
    let mut client = machine.client().await?;
    assert_eq!(client.pull(&reference).await?, image.id);
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_from_a_registry_that_never_responds_is_cancelled_from_the_command_line() -> Result<()> {
    needs!();
    let setup = crisp_e2e::Setup { no_registry: true, ..Default::default() };
    let machine = Machine::start_with(setup).await?;
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let image = format!("{}/silent:1", silent.local_addr()?);
    std::thread::scope(|scope| -> Result<()> {
        let pull = scope.spawn(|| machine.crisp(&["pull", &image]).map_err(|error| error.to_string()));
        // The pull is under way once it has connected; the connection stays open.
        let _connection = silent.accept()?;
        let other = machine.crisp(&["pull", "--cancel", "test.example/other:1"])?;
        let text = String::from_utf8_lossy(&other.stderr).into_owned();
        assert_eq!(
            (other.status.code(), text.contains("no pull of it is under way")),
            (Some(1), true),
            "{text}"
        );
        assert!(!pull.is_finished(), "another image's pull was cancelled");
        let cancel = machine.crisp(&["pull", "--cancel", &image])?;
        let text = String::from_utf8_lossy(&cancel.stdout).into_owned();
        assert_eq!((cancel.status.code(), text), (Some(0), format!("{image}: cancelled\n")));
        let pulled = pull.join().map_err(|_| "the pull panicked")??;
        let text = String::from_utf8_lossy(&pulled.stderr).into_owned();
        assert_eq!(pulled.status.code(), Some(1), "{text}");
        assert!(text.contains("cancelled"), "{text}");
        Ok(())
    })?;
    machine.close().await
}
