//! Networks of `crisp run`, and the files in /etc that follow from them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crisp_e2e::standalone::{Host, manifest};
use crisp_e2e::{Image, Machine, Result, Setup, needs};

use crate::cni::ALONE;

async fn machine() -> Result<(Machine, Host, String)> {
    let machine = Machine::start_with(Setup::default()).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let host = Host::new(&machine)?;
    Ok((machine, host, image))
}

/// Makes the host's only resolver one that pods do not reach.
fn resolve_on_loopback(host: &mut Host, folder: &Path) -> Result<()> {
    let file = folder.join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.1\nsearch lan.example\n")?;
    host.prepare = format!("mount --bind {} /etc/resolv.conf && ", file.display());
    Ok(())
}

/// A manifest of a pod in its own network.
fn on_own_network(image: &str, spec: &str, containers: &[(&str, &str)]) -> String {
    manifest(image, spec, containers).replace("  hostNetwork: true\n", "  restartPolicy: Never\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_takes_a_cni_configuration_where_there_is_one() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let _alone = ALONE.lock().await;
    let (machine, mut host, image) = machine().await?;
    resolve_on_loopback(&mut host, machine.folder())?;
    host.cni = machine.folder().join("net.d");
    let (bin, calls) = (machine.folder().join("bin"), machine.folder().join("calls"));
    for folder in [&host.cni, &bin] {
        std::fs::create_dir(folder)?;
    }
    let list = r#"{"cniVersion":"1.0.0","name":"alone","plugins":[{"type":"noting"}]}"#;
    std::fs::write(host.cni.join("10.conflist"), list)?;
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\necho $CNI_COMMAND $CNI_ARGS >>{}\necho '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.9.0.7/24\"}}]}}'\n",
        calls.display()
    );
    std::fs::write(bin.join("noting"), script)?;
    std::fs::set_permissions(bin.join("noting"), std::fs::Permissions::from_mode(0o755))?;
    let yaml = on_own_network(&image, "", &[("a", "cat /etc/resolv.conf; grep alone /etc/hosts")]);
    let mut run = host.start("a", &yaml, &["--cni-bin-dir", &bin.display().to_string()])?;
    assert!(run.end().await?.success(), "{}", run.errors());
    let calls = std::fs::read_to_string(calls)?;
    for verb in ["ADD", "DEL"] {
        let is_call = |line: &str| line.starts_with(verb) && line.contains("K8S_POD_NAME=alone");
        assert!(calls.lines().any(is_call), "{verb}: {calls}");
    }
    assert!(run.output().contains("10.9.0.7\talone"), "{}", run.output());
    // The pod reaches no resolver: nothing pretends that it does.
    assert!(run.output().contains("search lan.example"), "{}", run.output());
    assert!(!run.output().contains("nameserver"), "{}", run.output());
    assert!(run.errors().contains("names are not resolved in the pod"), "{}", run.errors());
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_of_a_run_share_their_hosts_file_and_the_resolver_of_their_network() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, mut host, image) = machine().await?;
    resolve_on_loopback(&mut host, machine.folder())?;
    let gateway = "ip route | sed -n 's/^default via \\([^ ]*\\).*/gateway \\1/p'";
    let shows = format!("{gateway}; cat /etc/resolv.conf; echo 10.9.9.9 added >>/etc/hosts");
    let waits = "for i in $(seq 300); do grep 'added' /etc/hosts && exit; sleep 0.1; done";
    let spec = "  dnsConfig: {options: [{name: ndots, value: '2'}]}\n";
    let yaml = on_own_network(&image, spec, &[("shows", &shows), ("waits", waits)]);
    let bridge = format!("{}r", machine.bridge());
    let mut run = host.start("a", &yaml, &["--bridge-name", &bridge])?;
    assert!(run.end().await?.success(), "{}", run.errors());
    let output = run.output();
    let of = |name: &str| {
        let lines = output.lines().filter_map(|line| line.split_once("| "));
        lines.filter(|(who, _)| who.contains(name)).map(|(_, line)| line).collect::<Vec<_>>()
    };
    assert_eq!(of("waits"), ["10.9.9.9 added"], "{output}");
    let shown = of("shows");
    let gateway = shown.first().and_then(|line| line.strip_prefix("gateway ")).ok_or(output.clone())?;
    let nameserver = format!("nameserver {gateway}");
    assert_eq!(shown[1..], ["search lan.example", &nameserver, "options ndots:2"], "{output}");
    assert!(!run.errors().contains("names are not resolved"), "{}", run.errors());
    machine.close().await
}
