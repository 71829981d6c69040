//! A containerd on folders of its own, for comparison and as a caller of `crisp oci`.
//!
//! [`Containerd`] alone runs single containers with `ctr`; [`Cri`] runs pods with runc.

mod cri;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use self::cri::Cri;
use crate::machine::crisp;
use crate::programs::{self, CONTAINERD, CTR, Program, SHIM};
use crate::{Result, limited};

/// A command that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// The configuration for `ctr` alone.
const WITHOUT_CRI: &str = "disabled_plugins = [\"io.containerd.cri.v1.runtime\", \
     \"io.containerd.cri.v1.images\", \"io.containerd.grpc.v1.cri\"]\n";

/// A running containerd. Dropping it ends containerd.
pub struct Containerd {
    folder: tempfile::TempDir,
    child: Child,
    /// The namespace of its containers.
    namespace: &'static str,
}

impl Containerd {
    pub const PROGRAMS: [Program; 3] = [CONTAINERD, SHIM, CTR];

    /// Starts it without the CRI, and builds the programs before.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start() -> Result<Self> {
        programs::build(&Self::PROGRAMS)?;
        let folder = Self::new_folder()?;
        std::os::unix::fs::symlink(crisp(), folder.path().join("crisp-oci"))?;
        Self::start_in(folder, WITHOUT_CRI, "default")
    }

    fn new_folder() -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("crisp-containerd").tempdir()?)
    }

    /// `config`: what the file has in addition to the folders.
    fn start_in(folder: tempfile::TempDir, config: &str, namespace: &'static str) -> Result<Self> {
        let at = |name: &str| folder.path().join(name);
        let config = format!(
            "version = 3\nroot = {:?}\nstate = {:?}\n{config}[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("sock.ttrpc")
        );
        std::fs::write(at("config.toml"), config)?;
        let programs = CONTAINERD.path().parent().map(Path::to_owned).unwrap_or_default();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let log = std::fs::File::create(at("log"))?;
        let child = Command::new(CONTAINERD.path())
            .arg("--config")
            .arg(at("config.toml"))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let this = Self { folder, child, namespace };
        let deadline = Instant::now() + LIMIT;
        while !this.ctr(&["version"])?.status.success() {
            if Instant::now() > deadline {
                return Err(format!("containerd does not answer: {}", this.log()).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(this)
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its socket, which serves the CRI too where it is on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder().join("sock")
    }

    /// The whole log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// Runs `ctr args` until it ends.
    ///
    /// # Errors
    /// When it cannot be run, or hangs.
    pub fn ctr(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(CTR.path());
        command.arg("--address").arg(self.socket()).args(["--namespace", self.namespace]).args(args);
        limited::run(&mut command, LIMIT)
    }

    /// Runs `ctr args`, which must succeed, and returns its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn good(&self, args: &[&str]) -> Result<String> {
        let output = self.ctr(args)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            return Err(
                format!("ctr {args:?}: {}: {}{}", output.status, text(&output.stderr), self.log()).into()
            );
        }
        Ok(text(&output.stdout))
    }

    /// Runs `ctr run` with `crisp oci` as the runtime's binary: `options`, the root file system, the id, the
    /// command.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, options: &[&str], rootfs: &Path, id: &str, command: &[&str]) -> Result<Output> {
        let binary = self.folder().join("crisp-oci");
        let (binary, rootfs) = (binary.to_string_lossy(), rootfs.to_string_lossy());
        // A cgroup of its own, not one below that of containerd.
        let cgroup = format!("/crisp-oci-of-containerd-{id}-{}", std::process::id());
        let runtime =
            ["run", "--runtime", "io.containerd.runc.v2", "--runc-binary", &binary, "--cgroup", &cgroup];
        self.ctr(&[&runtime[..], options, &["--rootfs", &rootfs, id], command].concat())
    }

    /// Ends the tasks that a failed test has left: their shims outlive containerd.
    fn remove_tasks(&self) {
        let tasks = self.good(&["task", "ls", "-q"]).unwrap_or_default();
        for id in tasks.lines() {
            let _ = self.ctr(&["task", "rm", "--force", id]);
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.remove_tasks();
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}
