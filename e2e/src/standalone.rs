//! `crisp run` under test, with its own `/run` and `/var/lib`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Machine, Result, leak, machine};

/// A run of a test never takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A private `/run` and `/var/lib` for all runs of one test, which use the default folders of `crisp run`:
/// the runs find each other, but nothing of the host.
pub struct Host {
    folder: PathBuf,
    registries: PathBuf,
    /// More commands for the shell that prepares the mount namespace, for example mounts.
    pub prepare: String,
    /// The folder for CNI configurations.
    pub cni: PathBuf,
}

impl Host {
    /// Makes the folders in that of the machine; runs use the machine's registries.
    ///
    /// # Errors
    /// The file system's error.
    pub fn new(machine: &Machine) -> Result<Self> {
        let folder = machine.folder().join("standalone");
        for name in ["run", "lib"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        Ok(Self {
            folder,
            registries: machine.registries(),
            prepare: String::new(),
            cni: "/nonexistent".into(),
        })
    }

    /// The folder that a run sees as `/run`.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The folder that a run sees as `/var/lib`.
    #[must_use]
    pub fn lib(&self) -> PathBuf {
        self.folder.join("lib")
    }

    /// The folders of runs that do not use the usual ones: `crisp-run-PID`, in both places.
    #[must_use]
    pub fn temporary(&self) -> Vec<PathBuf> {
        let all =
            [self.run(), self.lib()].into_iter().flat_map(|folder| std::fs::read_dir(folder).into_iter());
        let paths = all.flatten().flatten().map(|entry| entry.path());
        paths.filter(|path| path.to_string_lossy().contains("crisp-run-")).collect()
    }

    /// Starts `crisp run` of this manifest.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, name: &str, manifest: &str, args: &[impl AsRef<OsStr>]) -> Result<Standalone> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("pod.yaml"), manifest)?;
        let mut command = self.command();
        command.arg(folder.join("pod.yaml")).args(args);
        self.spawn(&folder, command, Stdio::null())
    }

    /// Starts `crisp run` of an image: options, its name, a command.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_image(&self, name: &str, words: &[&str], input: Stdio) -> Result<Standalone> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let mut command = self.command();
        command.args(words);
        self.spawn(&folder, command, input)
    }

    /// The command `crisp run`, without the object to run.
    #[must_use]
    pub fn command(&self) -> Command {
        let (run, lib) = (self.run(), self.lib());
        let script = format!(
            "mount --bind {} /var/lib && mount --bind {} /run && {} exec \"$@\"",
            lib.display(),
            run.display(),
            self.prepare
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(machine::crisp());
        command.arg("run").arg("--registry-config-dir").arg(&self.registries);
        command.arg("--cni-conf-dir").arg(&self.cni);
        command
    }

    fn spawn(&self, folder: &Path, mut command: Command, input: Stdio) -> Result<Standalone> {
        let (out, err) = (folder.join("out"), folder.join("err"));
        command.stdin(input).stdout(std::fs::File::create(&out)?).stderr(std::fs::File::create(&err)?);
        Ok(Standalone { child: command.spawn()?, out, err })
    }

    /// The socket of a run that uses the usual folders, for other commands.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run().join("crisp-run/crisp.sock")
    }

    /// Runs another `crisp` command against such a run; returns its output.
    ///
    /// # Errors
    /// When it cannot be started, or fails; with its error output.
    pub fn crisp(&self, args: &[&str]) -> Result<String> {
        let listen = format!("unix://{}", self.socket().display());
        let output = Command::new(machine::crisp()).arg("--listen").arg(listen).args(args).output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// A started `crisp run`.
pub struct Standalone {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Standalone {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// Its standard error so far.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until `is_so` returns true.
    ///
    /// # Errors
    /// When that takes too long; with the output.
    pub async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !is_so(self) {
            if begun.elapsed() > PATIENCE {
                let tail: String = self.output().chars().take(2000).collect();
                return Err(format!("{what}:\n{tail}\n{}", self.errors()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(&mut self) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("crisp run does not end:\n{}", self.errors()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Standalone {
    /// Takes the pod down, if necessary with SIGKILL, after a failed test or one that does not end the run
    /// itself.
    fn drop(&mut self) {
        for signal in [Signal::TERM, Signal::TERM, Signal::KILL] {
            let begun = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) {
                if begun.elapsed() > Duration::from_secs(5) {
                    break;
                }
                if begun.elapsed() < Duration::from_millis(20) {
                    let _ = self.signal(signal);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child.wait();
    }
}

impl Drop for Host {
    /// Ends the pods that killed runs left in a failed test.
    fn drop(&mut self) {
        let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let pods = entries(self.run()).flat_map(|state| entries(state.path().join("pods")));
        let ids: Vec<String> = pods.map(|pod| pod.file_name().to_string_lossy().into_owned()).collect();
        if ids.is_empty() {
            return;
        }
        let is_ours = |pid: &i32| {
            let line = leak::command_line(*pid);
            line.contains("crisp-pod") && ids.iter().any(|id| line.contains(id))
        };
        let monitors: Vec<i32> = leak::processes().filter(is_ours).collect();
        for pid in monitors.into_iter().flat_map(leak::tree).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        leak::remove_cgroups(&ids);
    }
}

/// Makes a manifest of a pod on the host's network, which needs no bridge; every container is a name and a
/// shell line.
#[must_use]
pub fn manifest(image: &str, spec: &str, containers: &[(&str, &str)]) -> String {
    let one = |(name, line): &(&str, &str)| {
        let line = serde_json::json!(line);
        format!("  - {{name: {name}, image: '{image}', command: [sh, -c, {line}]}}\n")
    };
    let containers: String = containers.iter().map(one).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: alone}}\nspec:\n  hostNetwork: true\n{spec}  containers:\n{containers}"
    )
}

/// The processes that have this text as a whole argument.
#[must_use]
pub fn processes_with(argument: &str) -> Vec<Pid> {
    let has = |pid: &i32| {
        let line =
            std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes())
    };
    leak::processes().filter(has).filter_map(Pid::from_raw).collect()
}
