//! The content of layers in a container: whiteouts, links, modes; and archives with paths out of the root.

use crisp_e2e::{Image, Lab, Layer, Result, needs, request};

#[tokio::test(flavor = "multi_thread")]
async fn layers_hide_replace_and_link() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let lower = Layer::new()
        .folder("keep/", 0o755)
        .file("keep/gone", 0o644, b"lower")
        .file("keep/stays", 0o640, b"stays")
        .folder("opaque/", 0o755)
        .file("opaque/hidden", 0o644, b"hidden")
        .file("changed", 0o644, b"old");
    let upper = Layer::new()
        .file("keep/.wh.gone", 0o644, b"")
        .folder("opaque/", 0o700)
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("opaque/new", 0o644, b"new")
        .file("changed", 0o4755, b"new")
        .hard_link("linked", "changed")
        .symlink("pointer", "keep/stays");
    let image = Image::busybox().layer(lower).layer(upper).build();
    let image = lab.machine.registry().push("layered", "1", &image)?;
    lab.client.pull(&image).await?;
    let line = "ls keep opaque | tr '\\n' ' '; cat changed linked pointer; stat -c ' %a %h' changed; stat -c '%a' keep/stays; stat -c '%a %Y' opaque/new";
    let log = lab.output("layered", request::shell("main", &image, line)).await?;
    assert_eq!(log, "keep: stays  opaque: new newnewstays 4755 2\n640\n644 1600000000\n");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_cannot_touch_what_is_outside() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let outside = lab.machine.folder().join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("file"), "untouched")?;
    // The path is short enough for the name field of an archive.
    let there = outside.display().to_string();
    let up = format!("{}{}", "../".repeat(12), &there[1..]);
    let attempts = [
        ("dots", Layer::new().file(&format!("{up}/a"), 0o644, b"evil")),
        ("absolute", Layer::new().file(&format!("{there}/b"), 0o644, b"evil")),
        ("symlink", Layer::new().symlink("out", &there).file("out/c", 0o644, b"evil")),
        ("updots", Layer::new().symlink("out", &up).file("out/d", 0o644, b"evil")),
        ("hardlink", Layer::new().hard_link("stolen", &format!("{up}/file")).file("stolen", 0o644, b"evil")),
        ("hardabs", Layer::new().symlink("out", &there).hard_link("stolen", "out/file")),
        ("whiteout", Layer::new().symlink("out", &there).file("out/.wh.file", 0o644, b"")),
        ("dotwhite", Layer::new().file("x/.wh...", 0o644, b"").file(".wh...", 0o644, b"")),
    ];
    for (name, layer) in attempts {
        let image =
            lab.machine.registry().push(&format!("evil/{name}"), "1", &Image::new().layer(layer).build())?;
        // The layer may be refused or harmless, but the file outside must not change.
        let outcome = lab.client.pull(&image).await.map_err(|s| s.message().to_owned());
        let files: Vec<_> = std::fs::read_dir(&outside)?.flatten().map(|e| e.file_name()).collect();
        assert_eq!(files, ["file"], "{name}: {outcome:?}");
        assert_eq!(std::fs::read_to_string(outside.join("file"))?, "untouched", "{name}: {outcome:?}");
        if name == "dots" {
            assert!(outcome.as_ref().is_err_and(|m| m.contains("..")), "{outcome:?}");
        }
    }
    lab.close().await
}
