//! `crisp oci`: the executor alone, as an OCI runtime with the conventions of runc. Its callers are podman,
//! containerd's shim, and people with a bundle; it needs no server.
//!
//! ```text
//!  create: bundle.rs --Spec--> namespaces.rs, cgroup.rs, devices.rs --> compile --> detached::create
//!          state_folder.rs: lock, state.json (record.rs), config.json, start.sock
//!  start:  opens start.sock; the container's first process waits for that
//!  others: status.rs derives the status from state.json, the process and its cgroup
//! ```
//!
//! A container has no parent process of crisp: its first process is a child of the next subreaper above
//! `create` (containerd's shim, conmon), or of `run`, which waits for it.
//!
//! Each command is in the file of its name. Fields of a spec that are not supported are refused by their
//! path.

mod bundle;
mod cgroup;
mod console;
mod create;
mod delete;
mod devices;
mod events;
mod exec;
mod features;
mod foreground;
mod hooks;
mod id;
mod init;
mod kill;
mod list;
mod namespaces;
mod options;
mod pause;
mod pid_file;
mod protected_program;
mod ps;
mod record;
mod relay;
mod runtime_log;
mod start;
mod state;
mod state_folder;
mod status;
mod streams;
mod update;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use runtime_log::RuntimeLog;

/// The program name that selects `crisp oci`.
pub const PROGRAM: &str = "crisp-oci";

/// The version of the program and that of the runtime spec, in the form that callers parse.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1");

/// Run a container from an OCI bundle, without a server, as runc does
#[derive(Debug, clap::Args)]
#[command(version = VERSION, after_help = "\
A program called crisp-oci (a link to crisp) does the same, for callers that want a path:
  ln -s crisp /usr/bin/crisp-oci; podman --runtime /usr/bin/crisp-oci run --cgroup-manager cgroupfs ...
Exit code: 0, 1 for a failure of crisp, and of run and exec in the foreground that of the process.")]
pub struct Oci {
    /// Folder of the records of containers
    #[arg(long, default_value = "/run/crisp/oci", value_name = "FOLDER")]
    root: PathBuf,
    /// File to which failures are appended
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of the log
    #[arg(long, value_enum, default_value = "text")]
    log_format: runtime_log::Format,
    /// Accepted and ignored: the log always has all failures and notes
    #[arg(long)]
    debug: bool,
    /// Not supported: only cgroupfs can make the cgroups
    #[arg(long)]
    systemd_cgroup: bool,
    /// Only false and auto: crisp runs as root
    #[arg(long, value_name = "BOOL", default_value = "auto")]
    rootless: String,

    #[command(subcommand)]
    command: Command,
}

/// The help text of each command is that of its structure.
#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Create),
    Start(start::Start),
    Run(foreground::Run),
    Exec(exec::Exec),
    State(state::State),
    Kill(kill::Kill),
    Delete(delete::Delete),
    List(list::List),
    Ps(ps::Ps),
    Pause(pause::Pause),
    Resume(pause::Resume),
    Update(update::Update),
    Events(events::Events),
    Features(features::Features),
}

impl Oci {
    /// Runs the command. A failure is logged too: containerd reads the last message there.
    ///
    /// # Errors
    /// The command's own error.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let log = RuntimeLog::new(self.log.as_deref(), self.log_format);
        self.check().and_then(|()| self.command.run(&self.root, &log)).inspect_err(|error| log.error(error))
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.systemd_cgroup {
            anyhow::bail!(
                "--systemd-cgroup: is not supported by crisp oci: choose the cgroup driver cgroupfs \
                 (podman --cgroup-manager cgroupfs; containerd SystemdCgroup = false)"
            );
        }
        if !matches!(self.rootless.as_str(), "auto" | "false") {
            anyhow::bail!("--rootless {:?}: is not supported: run crisp oci as root", self.rootless);
        }
        Ok(())
    }
}

impl Command {
    fn run(self, root: &std::path::Path, log: &RuntimeLog) -> anyhow::Result<ExitCode> {
        let done = |()| ExitCode::SUCCESS;
        match self {
            Self::Create(create) => create.run(root, log).map(done),
            Self::Start(start) => start.run(root, log).map(done),
            Self::Run(run) => run.run(root, log),
            Self::Exec(exec) => exec.run(root, log),
            Self::State(state) => state.run(root).map(done),
            Self::Kill(kill) => kill.run(root).map(done),
            Self::Delete(delete) => delete.run(root, log).map(done),
            Self::List(list) => list.run(root).map(done),
            Self::Ps(ps) => ps.run(root).map(done),
            Self::Pause(pause) => pause.run(root).map(done),
            Self::Resume(resume) => resume.run(root).map(done),
            Self::Update(update) => update.run(root).map(done),
            Self::Events(events) => events.run(root).map(done),
            Self::Features(features) => features.run().map(done),
        }
    }
}
