//! One server under test with its surroundings.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Client, Registry, Result, leak};

/// Differences from the usual setup.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// More arguments for `crisp serve`.
    pub args: Vec<String>,
    /// Pods get the network of the CNI configuration in [`Machine::cni`] instead of the built-in one.
    pub cni: bool,
    /// Start no registry.
    pub no_registry: bool,
    /// An address pool instead of the machine's own.
    pub pool: Option<String>,
    /// Uses the debug build, which has fault points, and arms these in its first server (`CRISP_FAULTS`).
    pub faults: Option<String>,
    /// The parent of the machine's folder, instead of the usual place for temporary files.
    pub place: Option<PathBuf>,
    /// The state folder, instead of one in the machine's folder.
    pub state: Option<PathBuf>,
    /// A shell command that runs in the server's process before the server starts, such as `umask 077`.
    pub before_server: Option<String>,
    /// The `crisp` of an earlier release, as which servers are started until
    /// [`Machine::start_present_server`].
    pub earlier: Option<PathBuf>,
}

/// Flags that some earlier releases under test do not know, each with a value.
const LATER_FLAGS: [&str; 2] = ["--network", "--pod-cidr-v6"];

/// A server on folders, socket, bridge and address pool of its own.
pub struct Machine {
    folder: TempDir,
    server: Option<Child>,
    setup: Setup,
    bridge: String,
    pool: String,
    pool_v6: String,
    pub registry: Option<Registry>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The number of a machine and an address pool that no other has. A run that was cut off leaves its bridges.
fn free_pool() -> Result<(u32, String)> {
    let routes = std::fs::read_to_string("/proc/net/route")?;
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (second, third) = (200 + number / 200, number % 200 + 1);
        if second > 254 {
            return Err(
                "all address pools for tests are in use: delete the bridges of earlier runs, ct*n*".into()
            );
        }
        // As the kernel prints it: the destination's bytes in memory order.
        let destination = format!("\t00{third:02X}{second:02X}0A\t");
        if !routes.contains(&destination) {
            return Ok((number, format!("10.{second}.{third}.0/24")));
        }
    }
}

impl Machine {
    /// Starts a registry and a server with the usual setup.
    ///
    /// # Errors
    /// When either does not start; with the server's log.
    pub async fn start() -> Result<Self> {
        Self::start_with(Setup::default()).await
    }

    /// # Errors
    /// As [`Machine::start`].
    pub async fn start_with(setup: Setup) -> Result<Self> {
        let place = setup.place.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new().prefix("crisp-e2e-").tempdir_in(place)?;
        let (number, own) = free_pool()?;
        let process = std::process::id();
        // Unique among the tests of this run and, by the process id, among runs at the same time.
        let bridge = format!("ct{process}n{number}");
        let pool = setup.pool.clone().unwrap_or(own);
        let pool_v6 = format!("fd00:{:x}:{:x}:{number:x}::/64", process >> 16, process & 0xffff);
        let registry =
            if setup.no_registry { None } else { Some(Registry::start(&folder.path().join("registry"))?) };
        for name in ["root", "state", "registries", "cni", "logs"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        let mut machine = Self { folder, server: None, setup, bridge, pool, pool_v6, registry };
        machine.start_server().await?;
        Ok(machine)
    }

    /// The folder of all files; it is removed with the machine.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder().join("crisp.sock")
    }

    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.setup.state.clone().unwrap_or_else(|| self.folder().join("state"))
    }

    /// The folder for hosts.toml folders.
    #[must_use]
    pub fn registries(&self) -> PathBuf {
        self.folder().join("registries")
    }

    /// The folder for CNI configurations.
    #[must_use]
    pub fn cni(&self) -> PathBuf {
        self.folder().join("cni")
    }

    /// The folder for container logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder().join("logs")
    }

    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The registry.
    ///
    /// # Panics
    /// When the setup has no registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.registry.as_ref().expect("this machine has a registry")
    }

    /// The settings of this machine, as flags for any `crisp` command that accepts them.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let path = |p: PathBuf| p.display().to_string();
        let driver = std::env::var("CRISP_TEST_CGROUP_DRIVER").ok().map(|driver| ("--cgroup-driver", driver));
        [
            ("--listen", format!("unix://{}", self.socket().display())),
            ("--root", path(self.root())),
            ("--state", path(self.state())),
            ("--registry-config-dir", path(self.registries())),
            ("--network", if self.setup.cni { "cni" } else { "built-in" }.to_owned()),
            ("--cni-conf-dir", path(self.cni())),
            ("--pod-cidr", self.pool.clone()),
            ("--pod-cidr-v6", self.pool_v6.clone()),
            ("--bridge-name", self.bridge.clone()),
        ]
        .into_iter()
        .chain(driver)
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    /// Starts the server (again) and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer within ten seconds; with its log.
    pub async fn start_server(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let binary = match &self.setup.earlier {
            Some(earlier) => earlier.clone(),
            None if self.setup.faults.is_some() => crisp_with_faults(),
            None => crisp(),
        };
        let mut command = match &self.setup.before_server {
            None => Command::new(binary),
            Some(before) => {
                let mut command = Command::new("sh");
                command.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(binary);
                command
            }
        };
        command.env("CRISP_FAULTS", self.setup.faults.as_deref().unwrap_or_default());
        command.arg("serve").args(self.known_flags()?).args(&self.setup.args);
        self.server = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(mut client) = Client::connect(&self.socket()).await
                && client.runtime.version(k8s_cri::v1::VersionRequest::default()).await.is_ok()
            {
                return Ok(());
            }
            let ended = self.server.as_mut().and_then(|s| s.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                return Err(format!("the server does not answer ({ended:?}):\n{}", self.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts the server again after a fault has killed it, with no fault armed. Returns None when it is
    /// alive.
    ///
    /// # Errors
    /// As [`Machine::start_server`].
    pub async fn restart_if_killed(&mut self) -> Result<Option<Client>> {
        let Some(server) = &mut self.server else {
            return Ok(None);
        };
        // Its socket closes a moment before it can be waited for.
        for _ in 0..100 {
            if server.try_wait()?.is_some() {
                self.start_server_without_faults().await?;
                return Ok(Some(self.client().await?));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(None)
    }

    /// Starts the server again, with no fault armed.
    ///
    /// # Errors
    /// As [`Machine::start_server`].
    pub async fn start_server_without_faults(&mut self) -> Result<()> {
        self.setup.faults = Some(String::new());
        self.start_server().await
    }

    /// The flags of the server, as far as its release knows them.
    fn known_flags(&self) -> Result<Vec<String>> {
        let mut flags = self.flags();
        let Some(earlier) = &self.setup.earlier else { return Ok(flags) };
        let help = String::from_utf8(Command::new(earlier).args(["serve", "--help"]).output()?.stdout)?;
        for unknown in LATER_FLAGS.into_iter().filter(|flag| !help.contains(flag)) {
            if let Some(at) = flags.iter().position(|flag| flag == unknown) {
                flags.drain(at..at + 2);
            }
        }
        Ok(flags)
    }

    /// Starts the server under test on the folders of an earlier release.
    ///
    /// # Errors
    /// As [`Machine::start_server`].
    pub async fn start_present_server(&mut self) -> Result<()> {
        self.setup.earlier = None;
        self.start_server().await
    }

    /// A client of its own connection.
    ///
    /// # Errors
    /// When the server is down.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.socket()).await
    }

    /// The server's process id.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    /// Kills the server with SIGKILL.
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Sends SIGTERM to the server and waits for it to end.
    ///
    /// # Errors
    /// When it does not end within ten seconds, or not with status 0.
    pub fn stop_server(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match server.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(format!("the server ended with {status}:\n{}", self.log()).into());
                }
                None if Instant::now() > deadline => {
                    let _ = server.kill();
                    let _ = server.wait();
                    return Err(format!("the server ignores SIGTERM:\n{}", self.log()).into());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Runs a `crisp` command against this machine and returns its output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn crisp(&self, args: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new(crisp());
        // The flags come before other arguments: all words after `exec CONTAINER` belong to the container's
        // command.
        let (name, rest) = args.split_first().ok_or("no command")?;
        command.arg(name).arg("--listen").arg(format!("unix://{}", self.socket().display())).args(rest);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    fn log_path(&self) -> PathBuf {
        self.folder().join("server.log")
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Removes all pods, stops the server, and looks for leaks.
    ///
    /// # Errors
    /// When something could not be removed, or leaks were found.
    pub async fn close(mut self) -> Result<()> {
        let mut client = self.client().await?;
        let containers =
            client.runtime.list_containers(k8s_cri::v1::ListContainersRequest::default()).await?;
        let mut ids: Vec<String> = containers.into_inner().containers.into_iter().map(|c| c.id).collect();
        ids.extend(client.remove_pods().await?);
        self.stop_server()?;
        let found = leak::find(&self, &ids);
        if found.is_empty() {
            Ok(())
        } else {
            Err(format!("left behind:\n{}\n{}", found.join("\n"), self.log()).into())
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill_server();
        // A test has failed: its pods are ended, so that the next test starts on a clean machine.
        leak::clean(self);
    }
}

/// The debug build of the binary under test: `CRISP_DEBUG_BIN`, or target/debug/crisp.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn crisp_with_faults() -> PathBuf {
    let built = std::env::var_os("CRISP_DEBUG_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/crisp"), PathBuf::from);
    assert!(built.is_file(), "{} is missing: run `cargo build` first", built.display());
    built
}

/// The binary under test: `CRISP_BIN`, or target/release/crisp.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn crisp() -> PathBuf {
    let built = std::env::var_os("CRISP_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/crisp"), PathBuf::from);
    assert!(built.is_file(), "{} is missing: run `cargo build --release` first", built.display());
    built
}
