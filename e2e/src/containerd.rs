//! A containerd with `crisp oci` as its runtime binary, on folders of its own.
//!
//! It is not built here: `CRISP_CONTAINERD` names the folder with containerd, containerd-shim-runc-v2 and
//! ctr, or they are in target/containerd. They can be built from their public module:
//! `GOBIN=$PWD/target/containerd go install -tags "no_btrfs no_zfs no_devmapper"
//! github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}@v2.4.2`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::machine::crisp;
use crate::{Result, limited};

const PROGRAMS: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "ctr"];
/// A command that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// The folder of the programs. None when they are not built.
#[must_use]
pub fn programs() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/containerd");
    let folder = std::env::var_os("CRISP_CONTAINERD").map_or(built, PathBuf::from);
    PROGRAMS.iter().all(|program| folder.join(program).is_file()).then_some(folder)
}

/// A running containerd. Dropping it ends containerd.
pub struct Containerd {
    folder: tempfile::TempDir,
    programs: PathBuf,
    child: Child,
}

impl Containerd {
    /// # Errors
    /// When it does not answer.
    pub fn start(programs: PathBuf) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("crisp-containerd").tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let config = format!(
            "version = 3\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.cri.v1.runtime\", \
             \"io.containerd.cri.v1.images\", \"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("sock.ttrpc")
        );
        std::fs::write(at("config.toml"), config)?;
        std::os::unix::fs::symlink(crisp(), at("crisp-oci"))?;
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let log = std::fs::File::create(at("log"))?;
        let child = Command::new(programs.join("containerd"))
            .arg("--config")
            .arg(at("config.toml"))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let this = Self { folder, programs, child };
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
        let mut command = Command::new(self.programs.join("ctr"));
        command.arg("--address").arg(self.folder().join("sock")).args(args);
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
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // A failed test leaves its tasks, whose shims outlive containerd.
        let tasks = self.good(&["task", "ls", "-q"]).unwrap_or_default();
        for id in tasks.lines() {
            let _ = self.ctr(&["task", "rm", "--force", id]);
        }
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}
