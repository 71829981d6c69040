//! An OCI bundle with busybox, and `crisp oci` for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machine::crisp;
use crate::{Result, limited};

const PREFIX: &str = "crisp-oci";
/// A command that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(30);

const APPLETS: [&str; 14] = [
    "sh", "cat", "echo", "id", "ls", "sleep", "true", "hostname", "kill", "tty", "stty", "env", "grep",
    "readlink",
];

/// A bundle in a folder of its own, with its own `--root`. Dropping it removes what is left of its
/// containers.
pub struct Bundle {
    folder: tempfile::TempDir,
}

impl Bundle {
    /// A bundle whose process is `args`.
    ///
    /// # Errors
    /// When there is no busybox.
    pub fn new(args: &[&str]) -> Result<Self> {
        let this = Self { folder: tempfile::Builder::new().prefix(PREFIX).tempdir()? };
        let bin = this.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::copy("/bin/busybox", bin.join("busybox"))?;
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        this.change(&spec(args), |_| {})?;
        Ok(this)
    }

    /// The bundle's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder with the records of its containers.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// Writes `spec`, after `change`, to config.json.
    ///
    /// # Errors
    /// The file system's error.
    pub fn change(&self, spec: &Value, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut spec = spec.clone();
        change(&mut spec);
        Ok(std::fs::write(self.path().join("config.json"), spec.to_string())?)
    }

    /// The id for the container `name` of this bundle. The cgroup has the same name, and two runs of the
    /// tests must not use the same one.
    #[must_use]
    pub fn id(&self, name: &str) -> String {
        let folder = self.path().file_name().unwrap_or_default().to_string_lossy();
        format!("{name}-{}", folder.trim_start_matches(PREFIX))
    }

    /// The command `crisp oci --root ... args`, without input. An argument `@name` stands for the
    /// [id](Self::id) of `name`.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(crisp());
        let args = args.iter().map(|arg| match arg.strip_prefix('@') {
            Some(name) => self.id(name),
            None => (*arg).to_owned(),
        });
        command.arg("oci").arg("--root").arg(self.root()).args(args);
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// Runs `crisp oci args` until it ends.
    ///
    /// # Errors
    /// When it cannot be run, or hangs.
    pub fn oci(&self, args: &[&str]) -> Result<Output> {
        limited::run(&mut self.command(args), LIMIT)
    }

    /// Runs a command that must succeed, and returns its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn good(&self, args: &[&str]) -> Result<String> {
        let output = self.oci(args)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            return Err(format!("{args:?}: {}: {}", output.status, text(&output.stderr)).into());
        }
        Ok(text(&output.stdout))
    }

    /// Runs a command that must fail, and returns its error.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.oci(args)?;
        if output.status.success() {
            return Err(format!("{args:?} succeeded").into());
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The state of a container.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn state(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.good(&["state", id])?)?)
    }

    /// Waits until the container has this status.
    ///
    /// # Errors
    /// When the status does not come in time.
    pub fn wait(&self, id: &str, status: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let state = self.state(id)?;
            if state["status"] == status {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{id} does not become {status}: {state}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for id in std::fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let _ = self.oci(&["delete", "--force", &id.file_name().to_string_lossy()]);
        }
    }
}

/// The usual spec, as `runc spec` makes it, without the parts that busybox does not need.
#[must_use]
pub fn spec(args: &[&str]) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/bin:/bin", "COLOUR=blue"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "hostname": "bundle",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" },
            ],
            "maskedPaths": ["/proc/kcore", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}
