//! `--network none`: pods with only the interface lo.

use std::process::Stdio;

use crisp_e2e::standalone::Host;
use crisp_e2e::{Image, Machine, Result, Setup, needs};

/// Prints the view of a container without a network: its interfaces, whether lo is up, and what it resolves.
const LOOK: &str =
    "ls /sys/class/net; cat /sys/class/net/lo/flags; ping -c 1 -w 5 127.0.0.1 >/dev/null && echo reached";
const SEEN: &str = "lo\n0x9\nreached\n";

async fn machine() -> Result<(Machine, String)> {
    let machine = Machine::start_with(Setup::default()).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    Ok((machine, image))
}

fn crisp(machine: &Machine, args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = machine.crisp(args)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_network_has_only_lo() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, image) = machine().await?;
    let host = Host::new(&machine)?;
    let words = ["-q", "--network", "none", &image, "sh", "-c", LOOK];
    let mut run = host.start_image("run", &words, Stdio::null())?;
    let code = run.end().await?.code();
    assert_eq!((code, run.output()), (Some(0), SEEN.to_owned()), "{}", run.errors());
    let mut refused =
        host.start_image("run", &["-q", "--network", "none", "-p", "80", &image], Stdio::null())?;
    assert_eq!(refused.end().await?.code(), Some(125));
    assert!(refused.errors().contains("--publish"), "{}", refused.errors());
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_shows_no_address_of_a_pod_without_a_network() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let line = format!("{LOOK}; exec sleep 1000");
    let words = ["run", "-dq", "--name", "lonely", "--network", "none", &image, "sh", "-c", &line];
    let (code, text) = crisp(&machine, &words)?;
    assert_eq!(code, Some(0), "{text}");
    let (_, seen) = crisp(&machine, &["exec", "lonely", "sh", "-c", LOOK])?;
    assert_eq!(seen, SEEN);
    let template = "{{.Name}}|{{.NetworkSettings.IPAddress}}|";
    let (_, inspected) = crisp(&machine, &["inspect", "-f", template, "lonely"])?;
    assert!(inspected.contains("lonely||"), "{inspected}");
    let (_, pods) = crisp(&machine, &["pods", "-o", "json"])?;
    assert!(pods.contains("lonely") && !pods.contains("10."), "{pods}");
    assert_eq!(crisp(&machine, &["port", "lonely"])?, (Some(0), String::new()));
    let (code, text) = crisp(&machine, &["rm", "-f", "lonely"])?;
    assert_eq!(code, Some(0), "{text}");
    machine.close().await
}
