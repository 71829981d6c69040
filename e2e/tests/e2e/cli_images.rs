//! The commands to name, keep, move and remove images.

use std::path::Path;
use std::process::{Command, Stdio};

use crisp_e2e::image::Built;
use crisp_e2e::machine::crisp;
use crisp_e2e::{Image, Lab, Layer, Result, needs, request};
use serde_json::{Value, json};

/// The output of a command that must succeed.
fn output(lab: &Lab, args: &[&str]) -> Result<String> {
    let output = lab.machine.crisp(args)?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The error of a command that must fail.
fn refusal(lab: &Lab, args: &[&str]) -> Result<String> {
    let output = lab.machine.crisp(args)?;
    assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stderr)?)
}

/// An image of three layers: files, whiteouts of some of them, and a link.
fn layered() -> Built {
    let files = Layer::new()
        .folder("d/", 0o750)
        .file("d/kept", 0o4755, b"kept")
        .file("d/gone", 0o644, b"gone")
        .folder("o/", 0o755)
        .file("o/below", 0o644, b"below");
    let hidden = Layer::new()
        .folder("d/", 0o750)
        .file("d/.wh.gone", 0o600, b"")
        .folder("o/", 0o755)
        .file("o/.wh..wh..opq", 0o600, b"")
        .file("o/above", 0o644, b"above");
    let links =
        Layer::new().file("d/one", 0o644, b"same").hard_link("d/two", "d/one").symlink("d/link", "/d/kept");
    Image::busybox().layer(files).layer(hidden).layer(links).build()
}

/// A tar archive of these files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *bytes).expect("writing to memory");
    }
    tar.into_inner().expect("writing to memory")
}

const LOOK: &str = "ls /d /o; stat -c %a /d /d/kept; cat /d/link /o/above; stat -c %h /d/one";
const SEEN: &str = "/d:\nkept\nlink\none\ntwo\n\n/o:\nabove\n750\n4755\nkeptabove2\n";

#[tokio::test(flavor = "multi_thread")]
async fn saved_images_load_on_another_machine_and_are_the_same() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let image = lab.machine.registry().push("app", "1", &layered())?;
    lab.client.pull(&image).await?;
    assert_eq!(lab.output("before", request::shell("main", &image, LOOK)).await?, SEEN);
    output(&lab, &["tag", &image, "localhost/app:kept"])?;
    let file = lab.machine.folder().join("images.tar").display().to_string();
    output(&lab, &["save", "-o", &file, "localhost/app:kept", &lab.image.clone()])?;

    let mut other = Lab::start().await?;
    let loaded = output(&other, &["load", "-i", &file])?;
    assert!(loaded.contains("Loaded image: localhost/app:kept") && !loaded.contains("app:1\n"), "{loaded}");
    assert_eq!(other.output("after", request::shell("main", "localhost/app:kept", LOOK)).await?, SEEN);
    // An image that was loaded keeps its digests when it is saved and loaded again.
    let id = output(&other, &["inspect", "-f", "{{.Id}}", "localhost/app:kept"])?;
    let second = other.machine.folder().join("second.tar").display().to_string();
    output(&other, &["save", "-o", &second, "localhost/app:kept"])?;
    output(&other, &["rm", "-f", "pod/after"])?;
    output(&other, &["rmi", "localhost/app:kept"])?;
    assert_eq!(output(&other, &["load", "-q", "-i", &second])?, id);
    // The archive is a docker archive and an OCI layout at once; both contain all names.
    let mut names = Vec::new();
    for entry in tar::Archive::new(std::fs::File::open(&file)?).entries()? {
        names.push(entry?.path()?.display().to_string());
    }
    for name in ["manifest.json", "index.json", "oci-layout"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    lab.close().await?;
    other.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_other_tools_load_and_damaged_ones_do_not() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let built = layered();
    let config = built.blobs.last().expect("a configuration").bytes.clone();
    let layers = &built.blobs[..built.blobs.len() - 1];
    let folder = lab.machine.folder().to_owned();
    let load = |lab: &Lab, name: &str, files: &[(&str, &[u8])]| {
        let path = folder.join(name).display().to_string();
        std::fs::write(&path, archive(files))?;
        let output = lab.machine.crisp(&["load", "-i", &path])?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        Ok::<_, crisp_e2e::Error>((output.status.success(), text))
    };
    // In the form of older docker versions: gzipped layers, and a link for a layer that occurs twice.
    let paths: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = json!([{"Config": "c.json", "RepoTags": ["old.test/app:2"], "Layers": paths}]).to_string();
    let mut files: Vec<(&str, &[u8])> = vec![("c.json", &config)];
    files.extend(paths.iter().zip(layers).map(|(path, layer)| (path.as_str(), &layer.bytes[..])));
    files.push(("manifest.json", manifest.as_bytes()));
    let (done, text) = load(&lab, "docker.tar", &files)?;
    assert!(done && text == "Loaded image: old.test/app:2\n", "{text}");
    assert_eq!(lab.output("docker", request::shell("main", "old.test/app:2", LOOK)).await?, SEEN);
    assert_eq!(output(&lab, &["inspect", "-f", "{{.Id}}", "old.test/app:2"])?, format!("{}\n", built.id));

    let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": built.manifest.media_type, "digest": built.manifest.digest, "size": built.manifest.bytes.len(),
        "annotations": {"org.opencontainers.image.ref.name": "oci.test/app:3"},
    }]}).to_string();
    let names: Vec<String> = built.blobs.iter().map(|blob| path(&blob.digest)).collect();
    let of_manifest = path(&built.manifest.digest);
    let mut oci: Vec<(&str, &[u8])> =
        vec![("index.json", index.as_bytes()), (&of_manifest, &built.manifest.bytes)];
    oci.extend(names.iter().zip(&built.blobs).map(|(name, blob)| (name.as_str(), &blob.bytes[..])));
    let (done, text) = load(&lab, "oci.tar", &oci)?;
    assert!(done && text.contains("Loaded image: oci.test/app:3\n"), "{text}");

    // The machine has none of the layers.
    output(&lab, &["rm", "-f", "pod/docker"])?;
    output(&lab, &["rmi", "-f", &built.id])?;
    let mut damaged = built.blobs[1].bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let mut wrong = oci.clone();
    wrong[3].1 = &damaged;
    let (done, text) = load(&lab, "damaged.tar", &wrong)?;
    assert!(!done && text.contains(&names[1]), "{text}");
    let mut wrong = files.clone();
    wrong[2].1 = files[1].1;
    let (done, text) = load(&lab, "swapped.tar", &wrong)?;
    assert!(!done && text.contains("hashes to"), "{text}");
    let (done, text) = load(&lab, "missing.tar", &oci[..3])?;
    assert!(!done && text.contains("which its manifest names"), "{text}");
    let (done, text) = load(&lab, "empty.tar", &[("readme", b"x")])?;
    assert!(!done && text.contains("manifest.json"), "{text}");
    assert!(!output(&lab, &["images"])?.contains(".test/app"), "nothing is left of them");
    let left = std::fs::read_dir(lab.machine.root().join("images/.new"))?.count();
    assert_eq!(left, 0);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_becomes_an_image_by_commit_and_by_export() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let image = lab.machine.registry().push("app", "1", &layered())?;
    lab.client.pull(&image).await?;
    let (sandbox, pod) = lab.pod("work").await?;
    let line = "rm /d/kept; rm -r /o; mkdir /o; echo new > /o/new; chown 7:8 /o/new; echo ready; sleep 1000";
    lab.client.launch(&pod, &request::shell("main", &image, line), &sandbox).await?;
    while output(&lab, &["logs", "main"])? != "ready\n" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let change = format!("CMD {}", json!(["sh", "-c", "ls /d /o; stat -c %u:%g /o/new; echo $MADE"]));
    let id = output(
        &lab,
        &["commit", "-m", "why", "-c", &change, "-c", "ENV MADE=here", "main", "localhost/made:1"],
    )?;
    assert_eq!(output(&lab, &["ps", "--format", "{{.State}}"])?, "running\n", "it goes on afterwards");
    let mut made = request::container("main", "localhost/made:1", &[]);
    made.command.clear();
    let seen = "/d:\nlink\none\ntwo\n\n/o:\nnew\n7:8\nhere\n";
    assert_eq!(lab.output("made", made).await?, seen);
    let history = output(&lab, &["history", "--format", "{{.CreatedBy}}|{{.Comment}}", "localhost/made:1"])?;
    assert_eq!(history.lines().next(), Some("crisp commit of main|why"));
    assert!(refusal(&lab, &["commit", "-c", "FROM x", "work/main"])?.contains("FROM x"));
    assert!(refusal(&lab, &["commit", "work/main", "localhost/UPPER"])?.contains("UPPER"));

    let flat = lab.machine.folder().join("flat.tar").display().to_string();
    output(&lab, &["export", "-o", &flat, "work/main"])?;
    let list = Command::new("tar").args(["-tf", &flat]).output()?;
    let list = String::from_utf8(list.stdout)?;
    assert!(list.contains("o/new") && !list.contains("d/kept") && !list.contains("proc/1/"), "{list}");
    output(&lab, &["import", "-c", &change, "-c", "ENV MADE=there", &flat, "localhost/flat"])?;
    let mut made = request::container("main", "localhost/flat:latest", &[]);
    made.command.clear();
    made.envs.push(k8s_cri::v1::KeyValue { key: "PATH".into(), value: "/bin".into() });
    assert_eq!(lab.output("flat", made).await?, seen.replace("here", "there"));
    assert_ne!(output(&lab, &["inspect", "-f", "{{.Id}}", "localhost/flat"])?, id);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_stays_and_the_rest_goes() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let image = lab.machine.registry().push("app", "1", &layered())?;
    lab.client.pull(&image).await?;
    let (sandbox, pod) = lab.pod("use").await?;
    let used = lab.image.clone();
    lab.client.launch(&pod, &request::shell("main", &used, "sleep 1000"), &sandbox).await?;
    let ended = lab.client.launch(&pod, &request::shell("ended", &used, "true"), &sandbox).await?;
    lab.client.wait(&ended).await?;
    // The image loses one more name; its last name stays while a container uses the image.
    output(&lab, &["tag", &used, "localhost/b:1"])?;
    output(&lab, &["rmi", "localhost/b:1"])?;
    assert!(refusal(&lab, &["rmi", &used])?.contains("use/main"));
    // When the name moves to another image, this one has no name.
    output(&lab, &["tag", &used, &image])?;
    assert!(output(&lab, &["images"])?.contains("<none>"));
    assert!(refusal(&lab, &["image", "prune"])?.contains("--force"));
    let pruned = output(&lab, &["image", "prune", "-f"])?;
    assert!(pruned.contains("Total reclaimed space: ") && !pruned.ends_with(": 0B\n"), "{pruned}");
    assert!(!output(&lab, &["images"])?.contains("<none>") && output(&lab, &["images"])?.contains("busybox"));

    let mut kept = request::shell("kept", &used, "true");
    kept.annotations.insert("io.kubernetes.container.restartCount".into(), "0".into());
    let kept = lab.client.launch(&pod, &kept, &sandbox).await?;
    lab.client.wait(&kept).await?;
    let df = output(&lab, &["system", "df"])?;
    assert!(df.contains("Images") && df.contains("Local Volumes") && df.contains("RECLAIMABLE"), "{df}");
    assert_eq!(output(&lab, &["container", "prune", "--force"])?, format!("{ended}\n"));
    let names = output(&lab, &["ps", "-a", "--format", "{{.Names}}"])?;
    assert_eq!(names, "kept\nmain\n");
    output(&lab, &["system", "prune", "-f", "-a"])?;
    assert!(output(&lab, &["images"])?.contains("busybox"), "a container has it");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_outlive_containers_and_are_not_removed_under_them() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    assert_eq!(output(&lab, &["volume", "create", "data"])?, "data\n");
    assert_eq!(output(&lab, &["volume", "create", "data"])?, "data\n", "as good");
    output(&lab, &["volume", "create", "spare"])?;
    let folder = output(&lab, &["volume", "inspect", "-f", "{{.Mountpoint}}", "data"])?.trim_end().to_owned();
    assert_eq!(Path::new(&folder), lab.machine.root().join("standalone/volumes/data"));
    let (sandbox, pod) = lab.pod("vol").await?;
    let mut config = request::shell("main", &lab.image, "echo kept > /data/file");
    config.mounts.push(k8s_cri::v1::Mount {
        container_path: "/data".into(),
        host_path: folder.clone(),
        ..Default::default()
    });
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    lab.client.wait(&id).await?;
    assert!(refusal(&lab, &["volume", "rm", "data"])?.contains("vol/main"));
    assert_eq!(output(&lab, &["volume", "prune", "-f"])?, "spare\n");
    output(&lab, &["rm", "main"])?;
    assert_eq!(std::fs::read_to_string(Path::new(&folder).join("file"))?, "kept\n");
    let list: Value = serde_json::from_str(&output(&lab, &["volume", "ls", "-o", "json"])?)?;
    assert_eq!(
        (&list["volumes"][0]["Name"], list["volumes"].as_array().map(Vec::len)),
        (&json!("data"), Some(1))
    );
    assert!(refusal(&lab, &["volume", "create", "../x"])?.contains("../x"));
    assert_eq!(output(&lab, &["volume", "rm", "data"])?, "data\n");
    assert!(!Path::new(&folder).exists());
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_stops_no_prune() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("gone").await?;
    for name in ["one", "two", "three"] {
        let id = lab.client.launch(&pod, &request::shell(name, &lab.image, "true"), &sandbox).await?;
        lab.client.wait(&id).await?;
    }
    output(&lab, &["volume", "create", "spare"])?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = Command::new(crisp());
    command.args(["system", "prune", "-f", "--volumes"]).stdin(Stdio::null()).stdout(writer);
    command.env("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{}", lab.machine.socket().display()));
    let pruned = command.output()?;
    assert!(pruned.status.success(), "{} {}", pruned.status, String::from_utf8_lossy(&pruned.stderr));
    assert_eq!(output(&lab, &["ps", "-aq"])?, "");
    assert_eq!(output(&lab, &["volume", "ls", "-q"])?, "");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_takes_its_name_when_it_is_complete() -> Result<()> {
    needs!("docker-registry", "busybox");
    let lab = Lab::start().await?;
    let folder = lab.machine.folder().join("archives");
    std::fs::create_dir(&folder)?;
    let path = folder.join("images.tar").display().to_string();
    std::fs::write(&path, "last week")?;
    refusal(&lab, &["save", "-o", &path, &lab.image, "none.test/none:1"])?;
    assert_eq!(std::fs::read_to_string(&path)?, "last week");
    output(&lab, &["save", "-o", &path, &lab.image])?;
    assert!(std::fs::metadata(&path)?.len() > 100_000);
    assert_eq!(std::fs::read_dir(&folder)?.count(), 1);
    // A link to a pipe without a reader, as /dev/stdout is one before `| head`.
    let (link, (reader, writer)) = (folder.join("stdout"), std::io::pipe()?);
    std::os::unix::fs::symlink("/proc/self/fd/1", &link)?;
    drop(reader);
    let mut command = Command::new(crisp());
    command.args(["save", "-o"]).arg(&link).arg(&lab.image).stdin(Stdio::null()).stdout(writer);
    command.env("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{}", lab.machine.socket().display()));
    command.output()?;
    assert!(link.is_symlink());
    lab.close().await
}
