//! Real CNI plugins, and faulty plugins.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crisp_e2e::registry::free_port;
use crisp_e2e::{Lab, Machine, Result, Setup, http, needs, request, says};
use k8s_cri::v1::{NetworkConfig, RuntimeConfig, StatusRequest, UpdateRuntimeConfigRequest};
use serde_json::json;

const PLUGINS: &str = "/usr/lib/cni";

/// Locked by each of these tests: they look for namespaces with paths, which do not show their owners.
pub static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn close(lab: Lab) -> Result<()> {
    lab.close().await?;
    assert_eq!(crisp_e2e::leak::network_namespaces(), Vec::<String>::new());
    Ok(())
}

fn configure(machine: &Machine, plugins: &serde_json::Value) -> Result<()> {
    let config = json!({"cniVersion": "1.0.0", "name": "e2e", "plugins": plugins});
    Ok(std::fs::write(machine.cni().join("10-e2e.conflist"), config.to_string())?)
}

fn plugin(folder: &Path, name: &str, script: &str) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

fn with_plugins(folders: &str) -> Setup {
    Setup { cni: true, args: vec!["--cni-bin-dir".into(), folders.into()], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_plugins_give_and_take_addresses() -> Result<()> {
    needs!("docker-registry", "busybox", "iptables", "/usr/lib/cni/bridge");
    let _alone = ALONE.lock().await;
    let mut lab = Lab::start_with(with_plugins(PLUGINS)).await?;
    let addresses = lab.machine.folder().join("ipam");
    let ipam = json!({"type": "host-local", "dataDir": addresses, "ranges": [[{"subnet": "10.199.77.0/24"}], [{"subnet": "fd99:77::/64"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let bridge = format!("cb{}", std::process::id());
    let bridge =
        json!({"type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": false, "ipam": ipam});
    configure(&lab.machine, &json!([bridge, {"type": "portmap", "capabilities": {"portMappings": true}}]))?;
    let line = "ip addr show eth0 | grep global | grep -o 'inet6* [^ ]*77[.:]*2'; cat /proc/sys/net/ipv6/conf/eth0/accept_dad";
    let log = lab.output("cni", lab.shell(line)).await?;
    let held = || {
        std::fs::read_dir(addresses.join("e2e"))
            .map_or(0, |d| d.flatten().filter(|e| e.file_name().to_string_lossy().contains("77")).count())
    };
    let held_before = held();
    close(lab).await?;
    let _ = std::process::Command::new("ip")
        .args(["link", "delete", &format!("cb{}", std::process::id())])
        .status();
    assert_eq!(log, "inet 10.199.77.2\ninet6 fd99:77::2\n0\n", "without a search for duplicates");
    assert_eq!((held_before, held()), (2, 0), "the addresses were not given back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_fail_are_named_and_undone() -> Result<()> {
    needs!("docker-registry", "busybox");
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace");
    let note = format!("echo $CNI_COMMAND >> {}", trace.display());
    let refuse = format!(
        "{note}\nif [ $CNI_COMMAND = ADD ]; then echo '{{\"cniVersion\": \"1.0.0\", \"code\": 11, \"msg\": \"no room at the inn\"}}'; exit 1; fi"
    );
    plugin(folder.path(), "refuse", &refuse)?;
    let page = format!("127.0.0.1:{}", free_port()?);
    let mut setup = with_plugins(&folder.path().display().to_string());
    setup.args.extend(["--metrics-listen".into(), page.clone()]);
    let mut lab = Lab::start_with(setup).await?;
    configure(&lab.machine, &json!([{"type": "refuse"}]))?;
    let refused = lab.client.run_pod(&request::pod(&lab.machine, "refused")).await.expect_err("ADD failed");
    says(&refused, &["refuse", "no room at the inn"]);
    let calls = std::fs::read_to_string(&trace)?;
    assert!(calls.contains("ADD") && calls.contains("DEL"), "{calls}");
    calls_are_counted(&page, &calls)?;
    configure(&lab.machine, &json!([{"type": "absent"}]))?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let refused =
        lab.client.run_pod(&request::pod(&lab.machine, "absent")).await.expect_err("no such plugin");
    says(&refused, &["absent", &folder.path().display().to_string()]);
    close(lab).await
}

/// The metrics have the calls of the plugin that it has noted itself.
fn calls_are_counted(host: &str, calls: &str) -> Result<()> {
    let page = String::from_utf8(http::send(host, "GET", "/metrics", &[], &[])?.body)?;
    for (verb, outcome) in [("ADD", "failed"), ("DEL", "ok")] {
        let labels = format!("{{outcome=\"{outcome}\",plugin=\"refuse\",verb=\"{verb}\"}}");
        let value = |name: &str| {
            let of = format!("crisp_cni_call_duration_seconds_{name}{labels} ");
            page.lines().find_map(|line| line.strip_prefix(&of)?.parse::<f64>().ok())
        };
        let noted = calls.lines().filter(|call| *call == verb).count();
        assert_eq!(value("count"), Some(f64::from(u32::try_from(noted)?)), "{verb}: {page}");
        // A shell takes a moment, and none of these calls hangs.
        assert!(value("sum").is_some_and(|sum| sum > 0.0001 && sum < 30.0), "{verb}: {page}");
        let other = if outcome == "ok" { "failed" } else { "ok" };
        assert!(!page.contains(&labels.replace(outcome, other)), "{page}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_makes_the_network_not_ready() -> Result<()> {
    needs!("docker-registry", "busybox");
    let _alone = ALONE.lock().await;
    let mut lab = Lab::start_with(Setup { cni: true, ..Default::default() }).await?;
    not_ready(&mut lab, "no CNI configuration in").await?;
    std::fs::write(
        lab.machine.cni().join("10-broken.conflist"),
        "{\"cniVersion\": \"1.0.0\", \"plugins\": 7}",
    )?;
    not_ready(&mut lab, "10-broken.conflist").await?;
    close(lab).await
}

/// Waits until the network is not ready, with the reason `why`.
async fn not_ready(lab: &mut Lab, why: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        let answer = lab.client.runtime.status(StatusRequest { verbose: false }).await?.into_inner();
        let conditions = answer.status.ok_or("no status")?.conditions;
        let network = conditions.into_iter().find(|c| c.r#type == "NetworkReady").ok_or("no NetworkReady")?;
        if !network.status && network.message.contains(why) {
            return Ok(());
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{network:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A plugin that adds `VERB SUBNET` for each of its calls to the file `calls`; the subnet is that of its
/// configuration.
fn noting(folder: &Path) -> Result<()> {
    let script = r#"config=$(cat)
[ $CNI_COMMAND != VERSION ] || { echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}'; exit; }
subnet=$(echo "$config" | sed -n 's/.*"subnet" *: *"\([^"]*\)".*/\1/p')
echo $CNI_COMMAND $subnet >> CALLS
[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.7/24"}]}'"#;
    plugin(folder, "noting", &script.replace("CALLS", &folder.join("calls").display().to_string()))
}

/// Waits until the plugin has noted this call.
async fn called(folder: &Path, call: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let calls = std::fs::read_to_string(folder.join("calls")).unwrap_or_default();
        if calls.lines().any(|line| line == call) {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(60) {
            return Err(format!("no call {call:?}: {calls}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_of_cni_reach_the_plugins() -> Result<()> {
    needs!("docker-registry", "busybox");
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir()?;
    noting(folder.path())?;
    let template = folder.path().join("template");
    let network =
        r#"{"cniVersion":"1.1.0","name":"e2e","plugins":[{"type":"noting","subnet":"{{.PodCIDR}}"}]}"#;
    std::fs::write(&template, network)?;
    let mut setup = with_plugins(&folder.path().display().to_string());
    let flags = ["--cni-gc", "--cni-check-interval", "1s", "--cni-conf-template"].map(str::to_owned);
    setup.args.extend(flags.into_iter().chain([template.display().to_string()]));
    let mut lab = Lab::start_with(setup).await?;
    not_ready(&mut lab, "no CNI configuration in").await?;
    let network_config = Some(NetworkConfig { pod_cidr: "10.198.7.0/24".to_owned() });
    let runtime_config = Some(RuntimeConfig { network_config });
    lab.client.runtime.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).await?;
    lab.pod("checked").await?;
    called(folder.path(), "ADD 10.198.7.0/24").await?;
    called(folder.path(), "CHECK 10.198.7.0/24").await?;
    let info = String::from_utf8(lab.machine.crisp(&["info"])?.stdout)?;
    let ready = info.lines().find(|line| line.contains("NetworkReady")).unwrap_or_default();
    let file = std::fs::read_dir(lab.machine.cni())?.next().ok_or("there is no file")??.file_name();
    assert!(ready.contains(" yes: ") && ready.contains(&*file.to_string_lossy()), "{file:?}: {info}");
    // At the start of a server.
    lab.machine.kill_server();
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    called(folder.path(), "GC 10.198.7.0/24").await?;
    close(lab).await
}
