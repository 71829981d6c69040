//! A real kubelet on a runtime's socket: as a node of a cluster, or alone with static pods from a folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cgroup_root::{CgroupRoot, uses_systemd};
use crate::leak::unmount_below;
use crate::programs::{self, KUBELET};
use crate::registry::free_port;
use crate::{Machine, Result};

/// The name of a node that no API server knows.
const ALONE: &str = "crisp-e2e";

/// The runtime under a kubelet.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The folder that gets the kubelet's own.
    pub folder: PathBuf,
    pub socket: PathBuf,
    /// A name that no other runtime of this host has.
    pub name: String,
    /// More arguments for a kubelet on it.
    pub args: Vec<String>,
    /// More lines of the kubelet's configuration.
    pub config: String,
}

impl From<&Machine> for Runtime {
    fn from(machine: &Machine) -> Self {
        Self {
            folder: machine.folder().to_owned(),
            socket: machine.socket(),
            name: machine.bridge().to_owned(),
            args: vec![],
            config: String::new(),
        }
    }
}

/// A running kubelet.
pub struct Kubelet {
    folder: PathBuf,
    runtime: Runtime,
    port: u16,
    node: String,
    /// The kubeconfig for the API server. None when there is no API server.
    kubeconfig: Option<PathBuf>,
    /// The feature gates that are enabled in addition to the default ones.
    feature_gates: &'static [&'static str],
    child: Option<Child>,
    /// Dropped last.
    cgroup_root: CgroupRoot,
}

impl Kubelet {
    /// Starts a kubelet alone on the machine's socket, and waits for its API.
    ///
    /// # Errors
    /// When it ends or does not answer within a minute; with the end of its log.
    pub fn start(machine: &Machine) -> Result<Self> {
        Self::start_with(machine, &[])
    }

    /// Like [`start`](Self::start) on any runtime, with feature gates that are disabled by default.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub fn start_with(runtime: impl Into<Runtime>, feature_gates: &'static [&'static str]) -> Result<Self> {
        Self::start_as(runtime.into(), ALONE, None, feature_gates)
    }

    /// Starts a kubelet as a node of a cluster. A node whose name is an address has that address.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub fn join(machine: &Machine, node: &str, kubeconfig: &Path) -> Result<Self> {
        Self::start_as(machine.into(), node, Some(kubeconfig.to_owned()), &[])
    }

    fn start_as(
        runtime: Runtime,
        node: &str,
        kubeconfig: Option<PathBuf>,
        feature_gates: &'static [&'static str],
    ) -> Result<Self> {
        programs::build(&[KUBELET])?;
        let folder = runtime.folder.join("kubelet");
        std::fs::create_dir_all(folder.join("manifests"))?;
        let cgroup_root = CgroupRoot::make(&format!("crisp-e2e-{}", runtime.name))?;
        let mut kubelet = Self {
            folder,
            runtime,
            port: free_port()?,
            node: node.to_owned(),
            kubeconfig,
            feature_gates,
            child: None,
            cgroup_root,
        };
        kubelet.write_config()?;
        kubelet.restart()?;
        Ok(kubelet)
    }

    /// The folder of static pods.
    #[must_use]
    pub fn manifest(&self, name: &str) -> PathBuf {
        self.folder.join("manifests").join(format!("{name}.yaml"))
    }

    /// Stops the kubelet if it runs, and starts it.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("kubelet.log"))?;
        let child = Command::new(KUBELET.path())
            .arg("--config")
            .arg(self.folder.join("config.yaml"))
            .arg("--root-dir")
            .arg(self.folder.join("root"))
            .args(["--hostname-override", &self.node])
            .args(&self.runtime.args)
            .args(self.kubeconfig.iter().flat_map(|path| [Path::new("--kubeconfig"), path]))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        self.until("the kubelet's API answers", Duration::from_secs(60), |k| {
            k.get("/healthz").is_ok_and(|t| t == "ok")
        })
    }

    /// Stops the kubelet; its pods keep running.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// GET from the kubelet's API.
    ///
    /// # Errors
    /// The error output of curl, also for a status of 400 and above.
    pub fn get(&self, path: &str) -> Result<String> {
        self.curl(&["-X", "GET"], path)
    }

    /// POST to the kubelet's API.
    ///
    /// # Errors
    /// As [`Kubelet::get`].
    pub fn post(&self, path: &str) -> Result<String> {
        self.curl(&["-X", "POST"], path)
    }

    fn curl(&self, args: &[&str], path: &str) -> Result<String> {
        let url = format!("https://127.0.0.1:{}{path}", self.port);
        let output = Command::new("curl")
            .args(["-ksS", "--fail-with-body", "--max-time", "20"])
            .args(args)
            .arg(url)
            .output()?;
        let body = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(body);
        }
        Err(format!("{path}: {}{body}", String::from_utf8_lossy(&output.stderr)).into())
    }

    /// The pods that the kubelet reports: name with status.
    ///
    /// # Errors
    /// When there is no response, or it is not JSON.
    pub fn pods(&self) -> Result<Vec<(String, Value)>> {
        let list: Value = serde_json::from_str(&self.get("/pods")?)?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        Ok(items
            .into_iter()
            .map(|pod| {
                (pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), pod["status"].clone())
            })
            .collect())
    }

    /// The status of one container of a static pod (whose name the kubelet ends with the node's).
    #[must_use]
    pub fn container(&self, pod: &str, container: &str) -> Value {
        let pods = self.pods().unwrap_or_default();
        let status =
            pods.iter().find(|(name, _)| name == &format!("{pod}-{}", self.node)).map(|(_, status)| status);
        let kinds = ["containerStatuses", "initContainerStatuses"];
        let all = kinds.iter().filter_map(|kind| status?[kind].as_array()).flatten();
        all.clone().find(|c| c["name"] == container).cloned().unwrap_or(Value::Null)
    }

    /// Waits for a condition.
    ///
    /// # Errors
    /// When it is not true in time; with the pods and the end of the kubelet's log.
    pub fn until(&self, what: &str, limit: Duration, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !condition(self) {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.folder.join("kubelet.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                return Err(format!(
                    "not within {limit:?}: {what}\npods: {:?}\n{}",
                    self.pods(),
                    tail.join("\n")
                )
                .into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn write_config(&self) -> Result<()> {
        // The slices at the root of the host that kubeadm sets up.
        let cgroups = if uses_systemd() {
            "cgroupDriver: systemd".to_owned()
        } else {
            format!("cgroupDriver: cgroupfs\ncgroupRoot: /{}", self.cgroup_root.name())
        };
        let config = format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: {manifests}
fileCheckFrequency: 1s
syncFrequency: 2s
failCgroupV1: false
{cgroups}
failSwapOn: false
address: 127.0.0.1
port: {port}
healthzPort: 0
readOnlyPort: 0
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
enableServer: true
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%"}}
featureGates: {{{gates}}}
podLogsDir: {logs}
volumePluginDir: {plugins}
containerRuntimeEndpoint: unix://{socket}
{more}
"#,
            manifests = self.folder.join("manifests").display(),
            port = self.port,
            gates =
                self.feature_gates.iter().map(|gate| format!("{gate}: true")).collect::<Vec<_>>().join(", "),
            logs = self.folder.join("podlogs").display(),
            plugins = self.folder.join("volume-plugins").display(),
            socket = self.runtime.socket.display(),
            more = self.runtime.config,
        );
        Ok(std::fs::write(self.folder.join("config.yaml"), config)?)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop();
        // Its own volumes: tmpfs of emptyDir and tokens.
        unmount_below(&self.folder);
    }
}
