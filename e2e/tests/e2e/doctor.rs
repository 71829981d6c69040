//! `crisp doctor`: what is whose, what has no owner, and what is wrong with the machine.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crisp_e2e::{Lab, Machine, Result, free_port, needs, request};
use k8s_cri::v1::{PortMapping, RemoveContainerRequest, RemovePodSandboxRequest};
use serde_json::Value;

/// The output of the command, and whether it found no problem.
fn doctor(machine: &Machine, args: &[&str]) -> Result<(String, bool)> {
    let flags = machine.flags();
    // Without `--listen`, which the machine says itself.
    let flags = flags.iter().skip(2).map(String::as_str);
    let output = machine
        .crisp(&["doctor"].into_iter().chain(flags).chain(args.iter().copied()).collect::<Vec<_>>())?;
    let text = String::from_utf8(output.stdout)?;
    if text.is_empty() {
        Err(String::from_utf8(output.stderr)?.into())
    } else {
        Ok((text, output.status.success()))
    }
}

fn report(machine: &Machine) -> Result<(Value, bool)> {
    let (text, is_good) = doctor(machine, &["--format", "json"])?;
    Ok((serde_json::from_str(&text)?, is_good))
}

fn things(report: &Value) -> &[Value] {
    report["things"].as_array().map_or(&[], Vec::as_slice)
}

/// The kinds of what the pod or container has.
fn kinds_of<'a>(report: &'a Value, id: &str) -> BTreeSet<&'a str> {
    things(report)
        .iter()
        .filter(|thing| thing["ownerId"] == id)
        .filter_map(|thing| thing["kind"].as_str())
        .collect()
}

/// `KIND NAME` of what has no owner.
fn orphans(report: &Value) -> Vec<String> {
    let orphans = things(report).iter().filter(|thing| thing["owner"] == "OWNER_NONE");
    let text = |thing: &Value, field: &str| thing[field].as_str().unwrap_or_default().to_owned();
    orphans.map(|thing| format!("{} {}", text(thing, "kind"), text(thing, "name"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_two_pods_have_is_theirs() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let port = free_port()?;
    let mut published = request::pod(&lab.machine, "published");
    published.port_mappings =
        vec![PortMapping { container_port: 80, host_port: port.into(), ..Default::default() }];
    let first = lab.client.run_pod(&published).await?;
    let container = lab.client.launch(&first, &lab.shell("sleep 1000"), &published).await?;
    let (_, second) = lab.pod("second").await?;
    let (report, is_good) = report(&lab.machine)?;
    assert!(is_good, "{report:#}");
    assert_eq!(orphans(&report), [""; 0]);
    let counts = report["summary"].as_object().ok_or("no summary")?;
    let of = |name: &str| counts[name].as_u64().unwrap_or_default();
    let sum: u64 = ["pods", "containers", "images", "server", "others", "orphans"].map(of).iter().sum();
    assert_eq!((of("all"), things(&report).len() as u64), (sum, sum));
    let basic = ["address", "cgroup", "folder", "interface", "network namespace", "process"];
    assert_eq!(kinds_of(&report, &second), BTreeSet::from(basic));
    let more = basic.into_iter().chain(["host port", "packet rule"]).collect();
    assert_eq!(kinds_of(&report, &first), more);
    assert_eq!(kinds_of(&report, &container), BTreeSet::from(["cgroup", "folder", "process"]));
    let layer = things(&report).iter().find(|thing| thing["kind"] == "layer").ok_or("no layer")?;
    assert_eq!(layer["ownerName"], lab.image.as_str());
    let (text, _) = doctor(&lab.machine, &[])?;
    assert!(text.contains("pod default/published") && text.contains("container published/main"), "{text}");
    for check in ["kernel", "cgroups", "disk", "clock", "mirrors", "network"] {
        assert!(text.contains(&format!("ok       {check} ")), "{check}: {text}");
    }
    lab.close().await
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A cgroup where pods without a parent have theirs.
fn cgroup(id: &str) -> Result<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let root = if root.join("cgroup.controllers").exists() { root.to_owned() } else { root.join("memory") };
    let path = root.join("crisp").join(id);
    // Another server may remove the folder above, where that is empty, at any time.
    for _ in 0..20 {
        if std::fs::create_dir_all(&path).is_ok() {
            return Ok(path);
        }
    }
    Err(format!("{} cannot be made", path.display()).into())
}

/// A process that looks like the monitor of a pod.
struct Monitor(Child, #[expect(dead_code, reason = "its script is in it")] tempfile::TempDir);

impl Monitor {
    fn start(pod: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join(pod), "while :; do sleep 0.2; done\n")?;
        let mut shell = Command::new("/bin/sh");
        shell.arg0("crisp-pod").arg(pod).current_dir(folder.path()).stdin(Stdio::null());
        Ok(Self(shell.spawn()?, folder))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Commands that remove what a test has made, also when it fails. They may fail.
#[derive(Default)]
struct Cleanup(Vec<Vec<String>>);

impl Cleanup {
    fn add(&mut self, command: &[&str]) {
        self.0.push(command.iter().map(|word| (*word).to_owned()).collect());
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        for command in self.0.iter().rev() {
            let _ = Command::new(&command[0]).args(&command[1..]).stderr(Stdio::null()).status();
        }
    }
}

/// Another id of that form.
fn other(id: &str) -> String {
    id.chars().rev().collect()
}

/// One thing of each kind, made in the name of a pod that is gone, and a cgroup of an unknown id.
struct Orphans {
    stray_cgroup: PathBuf,
    foreign_cgroup: PathBuf,
    namespace: PathBuf,
    veth: String,
    table: String,
    pod_folder: PathBuf,
    container_folder: PathBuf,
    monitor: Monitor,
    _cleanup: Cleanup,
}

impl Orphans {
    async fn make(machine: &Machine, gone: &str) -> Result<Self> {
        let mut cleanup = Cleanup::default();
        let (stray_cgroup, foreign_cgroup) = (cgroup(gone)?, cgroup(&other(gone))?);
        for cgroup in [&stray_cgroup, &foreign_cgroup] {
            cleanup.add(&["rmdir", &cgroup.display().to_string()]);
        }
        let namespace = network_namespace(&format!("crisp-{}", &gone[..12]), &mut cleanup)?;
        let veth = format!("cr{}", &gone[..11]);
        make_veth(&veth, &format!("cx{}", &gone[..11]), &mut cleanup).await?;
        let table = format!("crisp-{}", machine.bridge());
        run("nft", &["add", "element", "ip", &table, "ports", "{ tcp . 9999 : 192.0.2.7 . 80 }"])?;
        let pod_folder = machine.state().join("pods").join(gone);
        std::fs::create_dir(&pod_folder)?;
        let container_folder = machine.root().join("containers").join(other(gone));
        std::fs::create_dir_all(container_folder.join("upper/kept"))?;
        let monitor = Monitor::start(gone)?;
        Ok(Self {
            stray_cgroup,
            foreign_cgroup,
            namespace,
            veth,
            table,
            pod_folder,
            container_folder,
            monitor,
            _cleanup: cleanup,
        })
    }

    /// As [`orphans`] lists them, those that hold neither data nor processes last.
    fn names(&self, gone: &str) -> ([String; 3], [String; 4]) {
        let holding = [
            format!("folder {}", self.pod_folder.display()),
            format!("folder {}", self.container_folder.display()),
            format!("process {} (monitor)", self.monitor.0.id()),
        ];
        let empty = [
            format!("cgroup /crisp/{gone}"),
            format!("interface {}", self.veth),
            format!("network namespace {}", self.namespace.display()),
            format!("packet rule tcp 9999 to 192.0.2.7 80 in table {}", self.table),
        ];
        (holding, empty)
    }

    /// Things that hold nothing are gone; data, processes and things that may be another server's are still there.
    fn assert_only_empty_ones_are_removed(&mut self) -> Result<()> {
        assert!(!self.stray_cgroup.exists() && !self.namespace.exists() && !interface(&self.veth).exists());
        let rules = Command::new("nft").args(["list", "table", "ip", &self.table]).output()?;
        assert!(!String::from_utf8_lossy(&rules.stdout).contains("9999"));
        assert!(self.container_folder.join("upper/kept").exists() && self.pod_folder.exists());
        assert!(self.monitor.0.try_wait()?.is_none());
        assert!(self.foreign_cgroup.exists());
        Ok(())
    }

    /// Removes the rest.
    fn remove_by_hand(self) -> Result<()> {
        std::fs::remove_dir_all(&self.pod_folder)?;
        std::fs::remove_dir_all(&self.container_folder)?;
        std::fs::remove_dir(&self.foreign_cgroup)?;
        Ok(())
    }
}

fn network_namespace(name: &str, cleanup: &mut Cleanup) -> Result<PathBuf> {
    let path = Path::new("/run/netns").join(name);
    std::fs::create_dir_all("/run/netns")?;
    std::fs::write(&path, "")?;
    cleanup.add(&["rm", "-f", &path.display().to_string()]);
    cleanup.add(&["umount", &path.display().to_string()]);
    run("unshare", &[&format!("--net={}", path.display()), "true"])?;
    Ok(path)
}

fn interface(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

/// Makes a pair of interfaces. The pod's own one of that name is deleted a moment after its removal.
async fn make_veth(name: &str, peer: &str, cleanup: &mut Cleanup) -> Result<()> {
    let begun = std::time::Instant::now();
    while interface(name).exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{name} stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cleanup.add(&["ip", "link", "del", name]);
    run("ip", &["link", "add", name, "type", "veth", "peer", "name", peer])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_orphan_is_named_and_what_holds_nothing_is_removed() -> Result<()> {
    needs!("docker-registry", "busybox", "nft", "ip", "unshare");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("lives").await?;
    let container = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    let (_, gone) = lab.pod("gone").await?;
    lab.client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: gone.clone() }).await?;
    let mut made = Orphans::make(&lab.machine, &gone).await?;
    let (holding, empty) = made.names(&gone);

    let (found, is_good) = report(&lab.machine)?;
    assert!(!is_good);
    let expected: BTreeSet<String> = holding.iter().chain(&empty).cloned().collect();
    assert_eq!(orphans(&found).into_iter().collect::<BTreeSet<_>>(), expected);
    let (text, _) = doctor(&lab.machine, &["-q"])?;
    assert!(text.contains(&format!("orphan: {}: its pod or container is gone", empty[1])), "{text}");
    assert!(text.contains("7 without an owner"), "{text}");

    let (text, is_good) = doctor(&lab.machine, &["-q", "--fix"])?;
    assert!(!is_good && text.contains("7 without an owner (4 removed)"), "{text}");
    for name in &holding {
        assert!(text.contains(&format!("orphan: {name}: ")), "{name}: {text}");
    }
    for name in &empty {
        assert!(text.contains(&format!("removed: {name} (")), "{name}: {text}");
    }
    assert!(text.contains("remove it by hand"), "{text}");
    made.assert_only_empty_ones_are_removed()?;
    made.remove_by_hand()?;

    // The pod that lives has all that it had.
    let (after, is_good) = report(&lab.machine)?;
    assert!(is_good && orphans(&after).is_empty(), "{after:#}");
    assert_eq!(kinds_of(&after, &pod), kinds_of(&found, &pod));
    assert_eq!(lab.client.exec(&container, &["echo", "here"]).await?.stdout, b"here\n");
    lab.close().await
}

/// Ids of the same form are no proof: another server's pods, and what programs mount in volumes.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_is_never_an_orphan() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare", "bash");
    let (mut lab, mut beside) = (Lab::start().await?, Lab::start().await?);
    let (_, pod) = lab.pod("own").await?;
    let (sandbox, foreign) = beside.pod("beside").await?;
    let container = beside.client.launch(&foreign, &beside.shell("sleep 1000"), &sandbox).await?;
    // As a Docker in a pod has them, on a volume whose mounts the host sees.
    let mounted =
        lab.machine.root().join("standalone/volumes/docker/overlay2").join(other(&pod)).join("merged");
    std::fs::create_dir_all(&mounted)?;
    let mut cleanup = Cleanup::default();
    cleanup.add(&["umount", &mounted.display().to_string()]);
    run("mount", &["-t", "tmpfs", "merged", &mounted.display().to_string()])?;
    // As the monitor of a Crisp in a container: its folder has the name of this server's, in mounts of its own.
    let pods = lab.machine.state().join("pods");
    let log = pods.join(other(&pod)).join("monitor.log");
    let inner = format!(
        "mount -t tmpfs inner {pods} && mkdir {folder} && cd {folder} && echo 'while :; do sleep 0.2; done' > {id} && exec -a crisp-pod /bin/sh {id} 2> {log}",
        pods = pods.display(),
        folder = pods.join(other(&pod)).display(),
        id = other(&pod),
        log = log.display(),
    );
    let mut monitor = Command::new("unshare");
    monitor.args(["--mount", "--propagation", "private", "bash", "-c", &inner]).stdin(Stdio::null());
    let monitor = Monitor(monitor.spawn()?, tempfile::tempdir()?);
    tokio::time::sleep(Duration::from_millis(500)).await;

    let (found, is_good) = report(&lab.machine)?;
    assert!(is_good && orphans(&found).is_empty(), "{found:#}");
    let named = |name: &str| things(&found).iter().find(|thing| thing["name"] == name);
    let monitor_name = format!("{} (monitor)", monitor.0.id());
    assert_eq!(named(&monitor_name).ok_or("the monitor is not seen")?["owner"], "OWNER_ANOTHER");
    let mount = named(&mounted.display().to_string()).ok_or("the mount is not seen")?;
    assert_eq!(mount["owner"], "OWNER_SERVER");
    doctor(&lab.machine, &["-q", "--fix"])?;
    assert_eq!(beside.client.exec(&container, &["echo", "here"]).await?.stdout, b"here\n");
    drop((monitor, cleanup));
    beside.close().await?;
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_records_are_lost_is_an_orphan_as_a_whole() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("lost").await?;
    let container_id = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    lab.machine.kill_server();
    for folder in [lab.machine.root().join("pods"), lab.machine.state().join("pods")] {
        std::fs::remove_dir_all(folder.join(&pod))?;
    }
    let (text, _) = doctor(&lab.machine, &["-q"])?;
    assert!(text.contains("cannot reach a server"), "{text}");
    lab.machine.start_server().await?;
    let (text, is_good) = doctor(&lab.machine, &["-q", "--fix"])?;
    assert!(!is_good && text.contains("(monitor)"), "{text}");
    // It runs on until a person ends it.
    for monitor in lab.machine.monitors(&pod) {
        let monitor = rustix::process::Pid::from_raw(monitor).ok_or("no monitor")?;
        rustix::process::kill_process(monitor, rustix::process::Signal::KILL)?;
    }
    let begun = std::time::Instant::now();
    while !doctor(&lab.machine, &["-q", "--fix"])?.1 {
        let (found, _) = report(&lab.machine)?;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", orphans(&found));
    }
    lab.client = lab.machine.client().await?;
    // Its own record is there: it is listed as one that has ended.
    lab.client.runtime.remove_container(RemoveContainerRequest { container_id }).await?;
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_machine_is_said() -> Result<()> {
    needs!("docker-registry", "busybox");
    let machine = Machine::start_with(crisp_e2e::Setup { cni: true, ..Default::default() }).await?;
    let folder = machine.registries().join("mirrored.test");
    std::fs::create_dir(&folder)?;
    let closed = format!("127.0.0.1:{}", free_port()?);
    let open = &machine.registry().host;
    let hosts = |hosts: &[&str]| {
        let hosts: String = hosts.iter().map(|host| format!("[host.\"http://{host}\"]\n")).collect();
        std::fs::write(folder.join("hosts.toml"), format!("server = \"http://{closed}\"\n{hosts}"))
    };
    hosts(&[open])?;
    let (text, is_good) = doctor(&machine, &["-q"])?;
    assert!(!is_good && text.contains("FAILED   CNI") && text.contains("no configuration in"), "{text}");
    assert!(text.contains("warning  mirrors        mirrored.test: 1 of 2 endpoints reached"), "{text}");
    hosts(&[])?;
    let config = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "no-such-plugin"}]}"#;
    std::fs::write(machine.cni().join("10-pods.conflist"), config)?;
    let (text, _) = doctor(&machine, &["-q"])?;
    assert!(text.contains("FAILED   mirrors") && text.contains(&closed), "{text}");
    assert!(text.contains("no-such-plugin is in none of the folders"), "{text}");
    machine.close().await
}
