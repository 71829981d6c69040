//! Damage of unpacked layers: it is found, named and healed by a pull while containers run.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use crisp_e2e::image::Built;
use crisp_e2e::{Image, Lab, Layer, Machine, Result, Setup, needs, request};
use k8s_cri::v1::ContainerState;

fn data() -> Vec<u8> {
    (0..1u32 << 20).map(|n| n.to_le_bytes()[n as usize % 3]).collect()
}

fn image() -> Built {
    Image::busybox().layer(Layer::new().file("data", 0o644, &data())).build()
}

/// The path of the unpacked file in the published layer.
fn unpacked(machine: &Machine) -> Result<PathBuf> {
    let layers = std::fs::read_dir(machine.root().join("layers"))?;
    let mut files = layers.flatten().map(|layer| layer.path().join("fs/data"));
    Ok(files.find(|file| file.exists()).ok_or("no layer has the file")?)
}

fn flip_a_bit(file: &Path) -> Result<()> {
    // Changed in place, as by a damaged disk: containers have the file open.
    let file = std::fs::File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 700_000)?;
    Ok(file.write_all_at(&[byte[0] ^ 4], 700_000)?)
}

fn layer_of(file: &Path) -> String {
    let folder = file.parent().and_then(Path::parent).and_then(Path::file_name);
    folder.map(|name| format!("sha256:{}", name.to_string_lossy())).unwrap_or_default()
}

/// The exit code and the output of the command.
fn told(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_found_named_and_healed_while_containers_run() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let image = lab.machine.registry().push("checked", "1", &image())?;
    lab.client.pull(&image).await?;
    let (sandbox, pod) = lab.pod("checked").await?;
    let reads = "exec 3< /data; while true; do cat /data > /dev/null || exit 9; sleep 0.05; done";
    let id = lab.client.launch(&pod, &request::shell("reads", &image, reads), &sandbox).await?;
    let (code, text) = told(&lab.machine.crisp(&["check"])?);
    assert!(code == Some(0) && text.contains(" 0 damaged"), "{code:?} {text}");

    let file = unpacked(&lab.machine)?;
    for heal in ["the next pull", "check --pull"] {
        flip_a_bit(&file)?;
        let (code, text) = told(&lab.machine.crisp(&["check", &image])?);
        assert_eq!(code, Some(1), "{heal}: {text}");
        for part in [&layer_of(&file), &image, "damaged: the content of its files has changed", " 1 damaged"]
        {
            assert!(text.contains(part), "{heal}: {part:?} is not in {text}");
        }
        if heal == "the next pull" {
            lab.client.pull(&image).await?;
        } else {
            let (code, text) = told(&lab.machine.crisp(&["check", "--pull"])?);
            assert!(code == Some(0) && text.contains("pulled again"), "{heal}: {code:?} {text}");
        }
        assert!(std::fs::read(&file)? == data(), "{heal}");
        let (code, text) = told(&lab.machine.crisp(&["check"])?);
        assert!(code == Some(0) && text.contains(" 0 damaged"), "{heal}: {code:?} {text}");
        assert_eq!(lab.client.status(&id).await?.state(), ContainerState::ContainerRunning, "{heal}");
        let seen = lab.client.exec(&id, &["sh", "-c", "wc -c < /data"]).await?;
        assert_eq!(String::from_utf8(seen.stdout.to_vec())?.trim(), "1048576", "{heal}");
    }
    let (code, text) = told(&lab.machine.crisp(&["check", "no/such/image"])?);
    assert!(code == Some(1) && text.contains("no/such/image"), "{code:?} {text}");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_checked_by_themselves_when_that_is_set() -> Result<()> {
    needs!("docker-registry", "busybox");
    let args = ["--image-check-interval", "1s"].map(str::to_owned).to_vec();
    let lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
    let layers = std::fs::read_dir(lab.machine.root().join("layers"))?;
    let busybox =
        layers.flatten().map(|layer| layer.path().join("fs/bin/busybox")).find(|file| file.exists());
    let busybox = busybox.ok_or("no layer has busybox")?;
    let mut permissions = std::fs::metadata(&busybox)?.permissions();
    permissions.set_mode(0o4755);
    std::fs::set_permissions(&busybox, permissions)?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !lab.machine.log().contains("a layer is damaged") {
        assert!(std::time::Instant::now() < deadline, "{}", lab.machine.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    lab.close().await
}
