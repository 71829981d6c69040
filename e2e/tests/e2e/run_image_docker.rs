//! Options and outputs that scripts for docker use: limits of processes, volumes with the image's files, health, ports,
//! names of networks, filters.

use crisp_e2e::{Image, Layer, Machine, Result, Setup, free_port, needs};
use serde_json::json;

use crate::run_image_detached::{crisp, machine, until};
use crate::run_image_stopped::{good, make, nothing_is_left};

fn inspect(machine: &Machine, template: &str, name: &str) -> Result<String> {
    Ok(good(machine, &["inspect", "-f", template, name])?.trim_end().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_processes_hold_for_commands_too_and_absent_gpus_are_named() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let line = "ulimit -S -n; ulimit -H -n; ulimit -c; echo up; exec sleep 1000";
    let options = ["--name", "limited", "--ulimit", "nofile=1000:2000", "--ulimit", "core=0"];
    make(&machine, &["container", "run", "-d"], &options, &image, line)?;
    let log = || good(&machine, &["container", "logs", "limited"]);
    until(&machine, "does not begin", || Ok(log()?.contains("up"))).await?;
    assert_eq!(log()?, "1000\n2000\n0\nup\n");
    let limit = good(&machine, &["exec", "limited", "sh", "-c", "ulimit -n; ulimit -c"])?;
    assert_eq!(limit, "1000\n0\n");
    good(&machine, &["container", "rm", "-f", "limited"])?;
    let (code, _, err) = crisp(
        &machine,
        &["run", "-dq", "--network", "host", "--ulimit", "nofile=4000000000:4000000000", &image, "true"],
    )?;
    assert!(
        code == Some(125) && err.contains("nofile: the hard limit 4000000000 is above"),
        "{code:?} {err}"
    );
    let (code, _, err) =
        crisp(&machine, &["run", "-dq", "--network", "host", "--gpus", "device=none", &image])?;
    assert!(code == Some(125) && err.contains("nvidia.com/gpu=none"), "{code:?} {err}");
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_volume_gets_the_files_of_the_image_once() -> Result<()> {
    needs!("docker-registry", "busybox");
    let machine = Machine::start_with(Setup::default()).await?;
    let files = Layer::new().folder("data/", 0o750).file("data/first", 0o600, b"of the image\n");
    let image = machine.registry().push("filled", "1", &Image::busybox().layer(files).build())?;
    let run = |name: &str, volume: &str, line: &str| -> Result<String> {
        make(&machine, &["create"], &["--name", name, "-v", volume], &image, line)?;
        let out = good(&machine, &["start", "-a", name])?;
        good(&machine, &["rm", name])?;
        Ok(out)
    };
    let show = "cat /data/*; stat -c %a /data /data/*";
    assert_eq!(run("a", "data:/data", show)?, "of the image\n750\n600\n");
    assert_eq!(run("b", "data:/data", "echo own > /data/first")?, "");
    assert_eq!(run("c", "data:/data", "cat /data/first")?, "own\n", "it is not empty any more");
    assert_eq!(run("d", "other:/data:nocopy", "ls /data")?, "");
    assert_eq!(run("e", "/data", "cat /data/first")?, "of the image\n");
    let folder = machine.folder().join("bind");
    std::fs::create_dir(&folder)?;
    assert_eq!(run("f", &format!("{}:/data", folder.display()), "ls /data")?, "", "a bind mount is as it is");
    good(&machine, &["volume", "rm", "data", "other"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_of_a_container_is_seen() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let options = [
        "--name",
        "checked",
        "--health-cmd",
        "echo looks; test -e /good",
        "--health-interval",
        "1s",
        "--health-retries",
        "2",
    ];
    make(&machine, &["run", "-d"], &options, &image, "exec sleep 1000")?;
    make(&machine, &["run", "-d"], &["--name", "other"], &image, "exec sleep 1000")?;
    let state = || good(&machine, &["ps", "--filter", "name=checked", "--format", "{{.Status}}"]);
    until(&machine, "is not unhealthy", || Ok(state()?.ends_with("(unhealthy)\n"))).await?;
    assert_eq!(inspect(&machine, "{{.State.Health.Status}}", "checked")?, "unhealthy");
    let streak: u32 = inspect(&machine, "{{.State.Health.FailingStreak}}", "checked")?.parse()?;
    assert!(streak >= 2, "{streak}");
    assert_eq!(inspect(&machine, "{{(index .State.Health.Log 0).ExitCode}}", "checked")?, "1");
    good(&machine, &["exec", "checked", "touch", "/good"])?;
    until(&machine, "is not healthy", || Ok(state()?.ends_with("(healthy)\n"))).await?;
    let names = |health: &str| {
        good(&machine, &["ps", "--filter", &format!("health={health}"), "--format", "{{.Names}}"])
    };
    assert_eq!((names("healthy")?, names("none")?), ("checked\n".to_owned(), "other\n".to_owned()));
    assert_eq!(inspect(&machine, "{{if .State.Health}}yes{{else}}no{{end}}", "other")?, "no");
    good(&machine, &["rm", "-f", "checked", "other"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_and_networks_have_dockers_shape() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let port = free_port()?;
    let publish = format!("127.0.0.1:{port}:80");
    good(&machine, &["run", "-dq", "--name", "web", "-p", &publish, &image, "sleep", "1000"])?;
    assert_eq!(good(&machine, &["port", "web"])?, format!("80/tcp -> 127.0.0.1:{port}\n"));
    assert_eq!(good(&machine, &["container", "port", "web", "80/tcp"])?, format!("127.0.0.1:{port}\n"));
    let (code, _, err) = crisp(&machine, &["port", "web", "81"])?;
    assert!(code == Some(1) && err.contains("port 81 of web is not published"), "{code:?} {err}");
    let template = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
    assert_eq!(inspect(&machine, template, "web")?, port.to_string());
    let address = inspect(&machine, "{{.NetworkSettings.IPAddress}}", "web")?;
    let by_network = inspect(&machine, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "web")?;
    assert!(!address.is_empty() && address == by_network, "{address} {by_network}");
    good(&machine, &["rm", "-f", "web"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_images_and_pods_are_filtered() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let labelled = Image::busybox().config("Labels", json!({ "tier": "front" })).build();
    let other = machine.registry().push("other", "2", &labelled)?;
    good(&machine, &["image", "pull", &image])?;
    good(&machine, &["image", "pull", &other])?;
    let list = |words: &[&str]| -> Result<String> {
        good(&machine, &[&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"], words].concat())
    };
    let (repository, _) = other.rsplit_once(':').ok_or("no tag")?;
    assert_eq!(list(&[repository])?, format!("{other}\n"));
    assert_eq!(list(&["--filter", "label=tier=front"])?, format!("{other}\n"));
    assert_eq!(list(&["--filter", "reference=*/other:*"])?, format!("{other}\n"));
    assert_eq!(list(&["--filter", "dangling=true"])?, "");
    assert_eq!(list(&["--filter", "dangling=false"])?.lines().count(), 2);
    let ids = [good(&machine, &["images", "-q"])?, good(&machine, &["images", "-q", "--no-trunc"])?];
    assert!(ids[0].lines().count() == 2 && ids[1].starts_with("sha256:") && ids[1].len() > 2 * 64, "{ids:?}");
    let (code, _, err) = crisp(&machine, &["images", "--filter", "before=none"])?;
    assert!(code == Some(1) && err.contains("before=none"), "{err}");

    good(
        &machine,
        &["run", "-dq", "--name", "up", "--label", "a=1", "--network", "host", &image, "sleep", "99"],
    )?;
    make(&machine, &["run", "-d"], &["--name", "ended"], &image, "true")?;
    until(&machine, "does not end", || Ok(good(&machine, &["up"])?.contains("Succeeded"))).await?;
    let pods = |filter: &str| good(&machine, &["pods", "--filter", filter, "--format", "{{.Name}}"]);
    assert_eq!((pods("label=a=1")?, pods("name=^en")?), ("up\n".to_owned(), "ended\n".to_owned()));
    until(&machine, "stays ready", || Ok(pods("state=ready")? == "up\n")).await?;
    good(&machine, &["rm", "-f", "up", "ended"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}
