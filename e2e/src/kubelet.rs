//! A real kubelet without an API server, on a machine's socket: it runs static pods from a folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::registry::free_port;
use crate::{Machine, Result};

const VERSION: &str = "v1.36.3";

/// Whether there is a kubelet, or what builds it.
#[must_use]
pub fn can_build() -> bool {
    binary().is_file() || crisp_skip::program("go").is_some()
}

fn binary() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubelet").join(VERSION).join("kubelet")
}

/// Builds the kubelet that `kubelet/go.mod` pins, once per target folder.
///
/// # Errors
/// What `go build` said.
pub fn build() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binary = binary();
    if binary.is_file() {
        return Ok(binary);
    }
    let package = "k8s.io/component-base/version";
    let flags =
        format!("-s -w -X {package}.gitVersion={VERSION} -X {package}.gitMajor=1 -X {package}.gitMinor=36");
    let go = crisp_skip::program("go").ok_or("go is not installed")?;
    let partial = binary.with_extension("partial");
    let output = Command::new(go)
        .current_dir(folder.join("kubelet"))
        .args(["build", "-ldflags", &flags, "-o"])
        .arg(&partial)
        .arg("k8s.io/kubernetes/cmd/kubelet")
        .env("CGO_ENABLED", "0")
        .output()?;
    if !output.status.success() {
        return Err(format!("go build kubelet: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    std::fs::rename(partial, &binary)?;
    Ok(binary)
}

/// A running kubelet.
pub struct Kubelet {
    folder: PathBuf,
    binary: PathBuf,
    socket: PathBuf,
    port: u16,
    cgroup_root: String,
    child: Option<Child>,
}

impl Kubelet {
    /// Starts one on the machine's socket and waits for its API.
    ///
    /// # Errors
    /// It ends or does not answer within a minute; with the end of its log.
    pub fn start(machine: &Machine) -> Result<Self> {
        let folder = machine.folder().join("kubelet");
        std::fs::create_dir_all(folder.join("manifests"))?;
        let mut kubelet = Self {
            folder,
            binary: build()?,
            socket: machine.socket(),
            port: free_port()?,
            cgroup_root: format!("crisp-e2e-{}", machine.bridge()),
            child: None,
        };
        kubelet.make_cgroup_root()?;
        kubelet.write_config()?;
        kubelet.restart()?;
        Ok(kubelet)
    }

    /// Where the kubelet finds static pods.
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
        let child = Command::new(&self.binary)
            .arg("--config")
            .arg(self.folder.join("config.yaml"))
            .arg("--root-dir")
            .arg(self.folder.join("root"))
            .args(["--hostname-override", "crisp-e2e"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        self.until("the kubelet's API answers", Duration::from_secs(60), |k| {
            k.get("/healthz").is_ok_and(|t| t == "ok")
        })
    }

    /// Ends the kubelet; its pods stay.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// GET from the kubelet's API.
    ///
    /// # Errors
    /// curl's words, also for a status of 400 and above.
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

    /// The pods as the kubelet sees them: name with status.
    ///
    /// # Errors
    /// No answer, or not JSON.
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
            pods.iter().find(|(name, _)| name == &format!("{pod}-crisp-e2e")).map(|(_, status)| status);
        let kinds = ["containerStatuses", "initContainerStatuses"];
        let all = kinds.iter().filter_map(|kind| status?[kind].as_array()).flatten();
        all.clone().find(|c| c["name"] == container).cloned().unwrap_or(Value::Null)
    }

    /// Waits for a condition.
    ///
    /// # Errors
    /// It has not come true in time; with the pods and the end of the kubelet's log.
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

    /// The kubelet works below a cgroup of ours, so that it leaves the machine's own alone.
    fn make_cgroup_root(&self) -> Result<()> {
        if uses_systemd() {
            return Ok(());
        }
        for hierarchy in hierarchies() {
            let folder = hierarchy.join(&self.cgroup_root);
            if std::fs::create_dir(&folder).is_ok() {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if folder.join(file).exists() && hierarchy.join(file).exists() {
                        std::fs::write(folder.join(file), std::fs::read(hierarchy.join(file))?)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_config(&self) -> Result<()> {
        // What kubeadm sets up: slices at the root of the host.
        let cgroups = if uses_systemd() {
            "cgroupDriver: systemd".to_owned()
        } else {
            format!("cgroupDriver: cgroupfs\ncgroupRoot: /{}", self.cgroup_root)
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
localStorageCapacityIsolation: false
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%"}}
podLogsDir: {logs}
containerRuntimeEndpoint: unix://{socket}
"#,
            manifests = self.folder.join("manifests").display(),
            port = self.port,
            logs = self.folder.join("podlogs").display(),
            socket = self.socket.display(),
        );
        Ok(std::fs::write(self.folder.join("config.yaml"), config)?)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop();
        unmount_below(&self.folder);
        if uses_systemd() {
            let _ = Command::new("systemctl").args(["stop", "kubepods.slice"]).status();
            return;
        }
        for hierarchy in hierarchies() {
            remove_cgroup(&hierarchy.join(&self.cgroup_root));
        }
    }
}

/// Whether the machine's server is told to use that driver.
fn uses_systemd() -> bool {
    std::env::var("CRISP_TEST_CGROUP_DRIVER").is_ok_and(|driver| driver == "systemd")
}

/// Every cgroup hierarchy of this host.
fn hierarchies() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    table.lines().filter(cgroup).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

fn remove_cgroup(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder);
}

/// The kubelet's own volumes (tmpfs of emptyDir and tokens).
fn unmount_below(folder: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for mount in
        table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|m| Path::new(m).starts_with(folder))
    {
        let _ = Command::new("umount").arg(mount).status();
    }
}
