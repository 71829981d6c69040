//! Options of networks that are made by the command line, measured in containers of `crisp run --network`.

use std::process::{Command, Stdio};

use crisp_e2e::registry::free_port;
use crisp_e2e::{Machine, Result, needs};

use crate::run_image_detached::{LOOP, crisp, machine, until};

const SERVES: &str = "busybox mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";

/// Networks of a test. A machine does not know them: what a failed test has left of them goes here.
struct Networks(Vec<String>);

impl Drop for Networks {
    fn drop(&mut self) {
        for name in &self.0 {
            let bridge = format!("cr-{name}");
            let delete = |program: &str, words: &[&str]| {
                let _ = Command::new(program).args(words).stderr(Stdio::null()).status();
            };
            delete("ip", &["link", "delete", &bridge]);
            delete("nft", &["delete", "table", "ip", &format!("crisp-{bridge}")]);
        }
    }
}

/// The output of a command that must succeed.
fn succeeds(machine: &Machine, words: &[&str]) -> Result<String> {
    let (code, out, err) = crisp(machine, words)?;
    assert_eq!(code, Some(0), "{words:?}: {out} {err}");
    Ok(out)
}

/// Makes a network with these options; returns its name, which is unlike those of other runs.
fn create(machine: &Machine, number: u32, options: &[&str]) -> Result<String> {
    let unique = std::process::id() % 10_000;
    let (name, subnet) =
        (format!("opt{unique}n{number}"), format!("10.196.{}.{}/29", unique % 250, number * 8));
    let words = [&["network", "create", &name, "--subnet", &subnet, "--no-ipv6"], options].concat();
    assert_eq!(succeeds(machine, &words)?, format!("{name}\n"));
    Ok(name)
}

fn run(machine: &Machine, name: &str, network: &str, image: &str, line: &str) -> Result<()> {
    let words = ["run", "-dq", "--name", name, "--network", network, image, "sh", "-c", line];
    succeeds(machine, &words).map(drop)
}

fn inside(machine: &Machine, name: &str, words: &[&str]) -> Result<String> {
    succeeds(machine, &[&["exec", name], words].concat())
}

/// The address of the container on its only network.
fn address(machine: &Machine, name: &str) -> Result<String> {
    let shown = inside(machine, name, &["busybox", "ip", "-4", "-o", "addr", "show", "eth0"])?;
    let address = shown.split_whitespace().nth(3).and_then(|address| address.split('/').next());
    Ok(address.ok_or(shown.clone())?.to_owned())
}

/// Whether the web server at the address answers.
fn is_answered(machine: &Machine, name: &str, address: &str) -> Result<bool> {
    let url = format!("http://{address}/");
    let words = ["exec", name, "busybox", "timeout", "2", "wget", "-q", "-O", "-", &url];
    let (code, out, _) = crisp(machine, &words)?;
    Ok(code == Some(0) && out == "hello\n")
}

/// Fails if the server at the address answers, though it answers itself: a stalled machine lets no one through.
async fn is_never_answered(machine: &Machine, name: &str, (server, address): (&str, &str)) -> Result<()> {
    for _ in 0..3 {
        assert!(!is_answered(machine, name, address)?, "{name} reaches {server}");
        until(machine, "it does not serve any more", || is_answered(machine, server, address)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_apart_and_mtu_have_their_effect_in_containers() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let open = create(&machine, 0, &["--mtu", "1380"])?;
    let internal = create(&machine, 1, &["--internal"])?;
    let apart = create(&machine, 2, &["--no-icc"])?;
    let _networks = Networks(vec![open.clone(), internal.clone(), apart.clone()]);
    for network in [&open, &internal, &apart] {
        run(&machine, &format!("{network}-web"), network, &image, SERVES)?;
        run(&machine, &format!("{network}-asks"), network, &image, LOOP)?;
    }
    let (web, client) = (|network: &str| format!("{network}-web"), |network: &str| format!("{network}-asks"));
    for network in [&open, &internal, &apart] {
        let (web, itself) = (web(network), address(&machine, &web(network))?);
        until(&machine, "it does not serve", || is_answered(&machine, &web, &itself)).await?;
        if network == &apart {
            is_never_answered(&machine, &client(network), (&web, &itself)).await?;
        } else {
            until(&machine, "it is not reached", || is_answered(&machine, &client(network), &itself)).await?;
        }
    }
    let mtu = |name: &str| inside(&machine, name, &["cat", "/sys/class/net/eth0/mtu"]);
    assert_eq!((mtu(&web(&open))?, mtu(&client(&open))?), ("1380\n".to_owned(), "1380\n".to_owned()));
    assert_ne!(mtu(&web(&apart))?, "1380\n");
    let routes = |name: &str| inside(&machine, name, &["busybox", "ip", "route"]);
    assert!(!routes(&web(&internal))?.contains("default"));
    assert!(routes(&web(&open))?.contains("default") && routes(&web(&apart))?.contains("default"));
    let other = address(&machine, &web(&open))?;
    is_never_answered(&machine, &client(&internal), (&web(&open), &other)).await?;
    let publish = format!("{}:80", free_port()?);
    let words = ["run", "-dq", "--network", &internal, "-p", &publish, &image, "true"];
    let (code, _, err) = crisp(&machine, &words)?;
    assert!(code != Some(0) && err.contains("the pod's network is internal"), "{code:?} {err}");
    for network in [&open, &internal, &apart] {
        for name in [web(network), client(network)] {
            succeeds(&machine, &["rm", "-f", &name])?;
        }
        succeeds(&machine, &["network", "rm", network])?;
        assert!(!std::fs::exists(format!("/sys/class/net/cr-{network}"))?);
    }
    let (code, _, err) = crisp(&machine, &["run", "-dq", "--network", &open, &image, "true"])?;
    assert!(code != Some(0) && err.contains(&open), "{code:?} {err}");
    machine.close().await
}
