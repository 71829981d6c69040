//! One node: namespaces, a disk, `crisp serve` and a kubelet.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use super::cgroups;
use super::control_plane::{ADDRESS, BRIDGE, REGISTRY, ip};
use super::init::BOOTED;
use super::report::until;
use crate::programs::KUBELET;
use crate::{Result, machine};

const LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Node {
    pub name: String,
    pub address: String,
    /// Of all nodes and the hub.
    folder: PathBuf,
    /// Below the root of each hierarchy.
    cgroup: String,
    kubeconfig: PathBuf,
    /// `unshare`, whose child is the node's first process.
    unshare: Option<Child>,
    init: i32,
    crisp: Option<Child>,
    kubelet: Option<Child>,
    /// The time of the kubelet's start.
    pub kubelet_start: SystemTime,
}

impl Node {
    /// Makes the node with this number, and starts it.
    pub(super) fn start(folder: &Path, number: u8, kubeconfig: PathBuf) -> Result<Self> {
        let name = format!("node{number}");
        let cluster = folder.file_name().ok_or("the folder has a name")?.to_string_lossy().into_owned();
        let mut this = Self {
            address: format!("10.77.0.{}", 10 + number),
            folder: folder.to_owned(),
            cgroup: format!("{cluster}/{name}"),
            name,
            kubeconfig,
            unshare: None,
            init: 0,
            crisp: None,
            kubelet: None,
            kubelet_start: SystemTime::now(),
        };
        this.format_disk()?;
        this.boot()?;
        Ok(this)
    }

    /// The folder that outlives reboots.
    pub(super) fn disk(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// A file of the node's mount namespace.
    pub(super) fn file(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(path.trim_start_matches('/'))
    }

    fn format_disk(&self) -> Result<()> {
        let registries = self.disk().join("etc/crisp/certs.d/cluster.test");
        std::fs::create_dir_all(&registries)?;
        std::fs::write(registries.join("hosts.toml"), format!("server = \"http://{REGISTRY}\"\n"))?;
        std::fs::write(self.disk().join("etc/resolv.conf"), format!("nameserver {ADDRESS}\n"))?;
        Ok(std::fs::write(
            self.disk().join("kubelet.yaml"),
            "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/crisp/crisp.sock
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
volumePluginDir: /var/lib/kubelet/volume-plugins
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: \"1%\", imagefs.available: \"1%\"}
",
        )?)
    }

    /// Makes the namespaces and cgroups, and starts Crisp and the kubelet in them.
    fn boot(&mut self) -> Result<()> {
        cgroups::make(&self.cgroup)?;
        let _ = std::fs::remove_file(self.disk().join(BOOTED));
        let disk = self.disk().display().to_string();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["boot", &self.cgroup, "init", &self.name, &disk]);
        let child = self.spawn(command, "init")?;
        let parent = child.id();
        self.unshare = Some(child);
        self.init = until("the node's first process", LIMIT, || first_child(parent))?;
        until("the node's mounts", LIMIT, || Ok(std::fs::metadata(self.disk().join(BOOTED))?))
            .map_err(|error| format!("{error}: {}", self.log("init")))?;
        self.connect()?;
        self.start_crisp()?;
        self.start_kubelet()
    }

    /// Connects the node's network to the bridge.
    fn connect(&self) -> Result<()> {
        let init = self.init.to_string();
        ip(&["link", "add", &self.name, "type", "veth", "peer", "name", "eth0", "netns", &init])?;
        ip(&["link", "set", &self.name, "master", BRIDGE, "up"])?;
        let network = format!("{}/24", self.address);
        self.run(&["ip", "link", "set", "lo", "up"])?;
        self.run(&["ip", "address", "add", &network, "dev", "eth0"])?;
        self.run(&["ip", "link", "set", "eth0", "up"])?;
        self.run(&["ip", "route", "add", "default", "via", ADDRESS])?;
        Ok(())
    }

    pub(super) fn start_crisp(&mut self) -> Result<()> {
        let crisp = machine::crisp().canonicalize()?.display().to_string();
        self.crisp = Some(self.spawn(self.command(&[&crisp, "serve"])?, "crisp")?);
        until("the server's socket", LIMIT, || Ok(UnixStream::connect(self.file("/run/crisp/crisp.sock"))?))
            .map_err(|error| format!("{error}: {}", self.log("crisp")))?;
        Ok(())
    }

    /// Ends Crisp by this signal.
    pub(super) fn end_crisp(&mut self, signal: Signal) -> Result<()> {
        let mut crisp = self.crisp.take().ok_or("crisp does not run")?;
        let pid = Pid::from_raw(first_child(crisp.id())?).ok_or("a process has an id")?;
        kill_process(pid, signal)?;
        until("the server ends", LIMIT, || crisp.try_wait()?.ok_or_else(|| "it runs".into()))?;
        Ok(())
    }

    fn start_kubelet(&mut self) -> Result<()> {
        let (program, config) = (KUBELET.path().canonicalize()?, self.disk().join("kubelet.yaml"));
        let [program, config, kubeconfig] =
            [&program, &config, &self.kubeconfig].map(|path| path.display().to_string());
        self.kubelet_start = SystemTime::now();
        let words = [&program, "--config", &config, "--kubeconfig", &kubeconfig, "--node-ip", &self.address];
        self.kubelet = Some(self.spawn(self.command(&words)?, "kubelet")?);
        Ok(())
    }

    /// Kills every process of the node, and waits until its namespaces and cgroups are gone.
    pub(super) fn power_off(&mut self) -> Result<()> {
        let Some(mut unshare) = self.unshare.take() else { return Ok(()) };
        kill_process(Pid::from_raw(self.init).ok_or("a process has an id")?, Signal::KILL)?;
        unshare.wait()?;
        for mut child in [self.crisp.take(), self.kubelet.take()].into_iter().flatten() {
            child.wait()?;
        }
        // The peer of its interface goes with its network namespace: until then something holds that, or it waits
        // in the kernel's queue, which has those of all tests on this host.
        until("the network namespace is gone", 4 * LIMIT, || match ip(&["link", "show", &self.name]) {
            Ok(line) => Err(line.into()),
            Err(_) => Ok(()),
        })?;
        cgroups::remove(&self.cgroup)
    }

    /// All that ran is gone, and the node starts anew with its disk.
    pub(super) fn reboot(&mut self) -> Result<()> {
        self.power_off()?;
        self.boot()
    }

    /// Stops kubelet and Crisp as an administrator does.
    pub(super) fn stop_programs(&mut self) -> Result<()> {
        if let Some(mut kubelet) = self.kubelet.take() {
            let pid = Pid::from_raw(first_child(kubelet.id())?).ok_or("a process has an id")?;
            kill_process(pid, Signal::TERM)?;
            kubelet.wait()?;
        }
        self.end_crisp(Signal::TERM)
    }

    /// A program that will run in the node.
    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["enter", &self.cgroup, &self.init.to_string()]).args(words);
        Ok(command)
    }

    /// The things of the running server that no pod, container or image owns.
    pub(super) fn orphans(&self) -> Result<Vec<String>> {
        let crisp = machine::crisp().canonicalize()?.display().to_string();
        // Its exit code is also about checks of the machine.
        let output = self.command(&[&crisp, "doctor", "--format", "json"])?.stdin(Stdio::null()).output()?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let things = report["things"].as_array().filter(|things| !things.is_empty());
        let things = things.ok_or_else(|| format!("no inventory: {report}"))?;
        let orphans = things.iter().filter(|thing| thing["owner"] == "OWNER_NONE");
        Ok(orphans.map(|thing| format!("{} {}", thing["kind"], thing["name"])).collect())
    }

    /// Runs a program in the node, and returns its output.
    pub(super) fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words)?.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("{} {words:?}: {}", self.name, String::from_utf8_lossy(&output.stderr)).into())
    }

    fn spawn(&self, mut command: Command, log: &str) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.log_path(log))?;
        Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    fn log_path(&self, of: &str) -> PathBuf {
        self.folder.join(format!("{}.{of}.log", self.name))
    }

    fn log(&self, of: &str) -> String {
        let text = std::fs::read_to_string(self.log_path(of)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// The cgroups of pods and containers.
    pub(super) fn pod_cgroups(&self) -> Result<Vec<PathBuf>> {
        let folder = cgroups::memory(&self.cgroup)?.join("kubepods");
        Ok(cgroups::tree(&folder))
    }

    /// The cgroups of the node in other hierarchies that the memory controller, where pods are counted, does not have.
    pub(super) fn stray_cgroups(&self) -> Result<Vec<PathBuf>> {
        cgroups::strays(&self.cgroup)
    }

    /// The processes of pods, each with the time of its start.
    pub(super) fn pod_processes(&self) -> Result<BTreeSet<(i32, String)>> {
        let files = self.pod_cgroups()?.into_iter().map(|folder| folder.join("cgroup.procs"));
        let text: String = files.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        let ids = text.lines().filter_map(|line| line.parse().ok());
        Ok(ids.filter_map(|pid| Some((pid, start_time(pid)?))).collect())
    }

    /// The command lines of all processes of the node but its first one.
    pub(super) fn processes(&self) -> Result<Vec<String>> {
        let files = cgroups::tree(&cgroups::memory(&self.cgroup)?).into_iter();
        let text: String =
            files.filter_map(|f| std::fs::read_to_string(f.join("cgroup.procs")).ok()).collect();
        let ids = text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != self.init);
        let lines = ids.map(crate::leak::command_line);
        Ok(lines.filter(|line| !line.is_empty() && !line.starts_with("unshare ")).collect())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.power_off();
    }
}

fn first_child(parent: u32) -> Result<i32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    Ok(text.split_whitespace().next().ok_or("no child")?.parse()?)
}

/// Field 22 of stat, the 20th behind the name.
fn start_time(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(ToOwned::to_owned)
}
