//! The joined mode: containers in the network of another one.

use crisp_e2e::{Machine, Result, needs};

use k8s_cri::v1::{ListPodSandboxRequest, PodSandbox, PodSandboxStatusRequest};

use crate::run_image_detached::{LOOP, crisp, machine, until};

const SERVES: &str = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www";
const ASKS: [&str; 5] = ["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"];

/// The output of a command in a container; that must succeed.
fn inside(machine: &Machine, name: &str, words: &[&str]) -> Result<String> {
    let (code, out, err) = crisp(machine, &[&["exec", name], words].concat())?;
    assert_eq!(code, Some(0), "{name} {words:?}: {out} {err}");
    Ok(out)
}

fn run(machine: &Machine, options: &[&str], image: &str, line: &str) -> Result<(Option<i32>, String)> {
    let words = [&["run", "-dq"], options, &[image, "sh", "-c", line]].concat();
    let (code, _, err) = crisp(machine, &words)?;
    Ok((code, err))
}

/// Whether a container reaches the web server through the loopback interface.
fn asks(machine: &Machine, name: &str) -> Result<bool> {
    Ok(crisp(machine, &[&["exec", name], &ASKS[..]].concat())?.0 == Some(0))
}

/// The address in the status of the pod.
async fn address(machine: &Machine, name: &str) -> Result<String> {
    let mut client = machine.client().await?;
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    let is_it = |pod: &PodSandbox| pod.metadata.as_ref().is_some_and(|metadata| metadata.name == name);
    let pod = pods.into_iter().find(is_it).ok_or("there is no such pod")?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id, verbose: false };
    let status = client.runtime.pod_sandbox_status(request).await?.into_inner().status;
    Ok(status.and_then(|status| status.network).unwrap_or_default().ip)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_joins_the_network_of_another_and_nothing_else() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    assert_eq!(run(&machine, &["--name", "web"], &image, SERVES)?.0, Some(0));
    let (code, err) = run(&machine, &["--name", "side", "--network", "container:web"], &image, LOOP)?;
    assert_eq!(code, Some(0), "{err}");
    let (code, err) = run(&machine, &["--name", "third", "--network", "pod:default/side"], &image, LOOP)?;
    assert_eq!(code, Some(0), "that of one that has joined itself: {err}");
    until(&machine, "web does not serve", || asks(&machine, "web")).await?;

    for name in ["side", "third"] {
        assert_eq!(inside(&machine, name, &ASKS)?, "hello\n", "they meet on the loopback interface");
        for same in [
            &["cat", "/sys/class/net/eth0/address"][..],
            &["ip", "-o", "addr", "show", "eth0"],
            &["hostname"],
            &["cat", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"],
        ] {
            assert_eq!(inside(&machine, name, same)?, inside(&machine, "web", same)?, "{same:?}");
        }
        assert!(!inside(&machine, name, &["ps"])?.contains("httpd"), "its processes are its own");
        assert_ne!(crisp(&machine, &["exec", name, "ls", "/www"])?.0, Some(0), "so are its files");
    }
    let pods = crisp(&machine, &["pods", "-o", "json"])?.1;
    let pods: serde_json::Value = serde_json::from_str(&pods)?;
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(3));

    machine.kill_server();
    machine.start_server().await?;
    assert_eq!(inside(&machine, "side", &ASKS)?, "hello\n", "also after a restart of the server");
    let (code, out, err) = crisp(&machine, &["restart", "-t", "2", "side"])?;
    assert_eq!(code, Some(0), "{out} {err}");
    assert_eq!(inside(&machine, "side", &ASKS)?, "hello\n");

    assert_eq!(crisp(&machine, &["rm", "-f", "web"])?.0, Some(0));
    assert_eq!(
        inside(&machine, "side", &["cat", "/sys/class/net/lo/operstate"])?,
        "unknown\n",
        "it lives on"
    );
    assert_eq!(address(&machine, "side").await?, "", "another pod may get its address");
    assert_eq!(address(&machine, "third").await?, "");
    let (code, err) = run(&machine, &["--name", "late", "--network", "container:web"], &image, LOOP)?;
    assert!(code == Some(125) && err.contains("\"web\""), "there is nothing to join: {code:?} {err}");
    assert_eq!(run(&machine, &["--name", "web"], &image, SERVES)?.0, Some(0));
    let (code, out, err) = crisp(&machine, &["restart", "-t", "2", "side"])?;
    assert_eq!(code, Some(0), "{out} {err}");
    until(&machine, "side does not join the new pod", || asks(&machine, "side")).await?;
    assert_eq!(address(&machine, "side").await?, address(&machine, "web").await?);
    for name in ["side", "third", "web"] {
        assert_eq!(crisp(&machine, &["rm", "-f", name])?.0, Some(0));
    }
    assert!(crisp(&machine, &["pods", "-q"])?.1.trim().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_network_is_joined_too_and_ports_are_for_the_first() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    assert_eq!(run(&machine, &["--name", "web", "--network", "host"], &image, LOOP)?.0, Some(0));
    let (code, err) = run(&machine, &["--name", "side", "--network", "container:web"], &image, LOOP)?;
    assert_eq!(code, Some(0), "{err}");
    let namespace = ["readlink", "/proc/self/ns/net"];
    let own = std::fs::read_link("/proc/self/ns/net")?;
    assert_eq!(inside(&machine, "side", &namespace)?.trim(), own.to_string_lossy());
    let options = ["--name", "port", "--network", "container:web", "-p", "8080:80"];
    let (code, err) = run(&machine, &options, &image, LOOP)?;
    assert!(code == Some(125) && err.contains("--publish: with --network pod:default/web"), "{code:?} {err}");
    for name in ["side", "web"] {
        assert_eq!(crisp(&machine, &["rm", "-f", name])?.0, Some(0));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_of_one_manifest_share_a_network() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let pod = |name: &str, annotations: &str, line: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: {name}, image: \"{image}\", command: [sh, -c, \"{line}\"]}}\n"
        )
    };
    let file = machine.folder().join("both.yaml");
    let both = [pod("side", "crisp/network-of: web", "sleep 1000"), pod("web", "", SERVES)];
    std::fs::write(&file, both.join("---\n"))?;
    let path = file.display().to_string();
    let (code, out, err) = crisp(&machine, &["run", "-d", &path])?;
    assert_eq!(code, Some(0), "{out} {err}");
    until(&machine, "they do not share it", || asks(&machine, "side")).await?;
    let published = both[0].replace("image:", "ports: [{containerPort: 80, hostPort: 8080}], image:");
    std::fs::write(&file, published)?;
    let (code, _, err) = crisp(&machine, &["run", "-d", &path])?;
    assert!(code != Some(0) && err.contains("containers[0].ports: hostPort cannot be together"), "{err}");
    for name in ["side", "web"] {
        assert_eq!(crisp(&machine, &["down", name])?.0, Some(0));
    }
    Ok(())
}
