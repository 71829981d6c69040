//! `crisp oci create`: everything but the exec of the container's program.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crisp_executor::cgroup::{Cgroups, Resources};
use crisp_executor::compile::{self, Compiled, HookInputs, Inputs, needs_pause};
use crisp_executor::hook;
use crisp_executor::ids::ContainerId;
use crisp_executor::plan::PidNamespace;
use crisp_executor::run::detached::{self, Namespaces};
use crisp_executor::run::{Progress, Reported, Starting, Stdio, start_gate};
use crisp_executor::source;
use crisp_operation::clock;
use oci_spec::runtime::Spec;
use rustix::fd::{AsFd as _, OwnedFd};

use super::bundle::Bundle;
use super::console::Console;
use super::init::Init;
use super::options::CreateOptions;
use super::record::Record;
use super::runtime_log::RuntimeLog;
use super::state_folder::{GATE, StateFolder};
use super::status::Status;
use super::{cgroup, delete, hooks, namespaces, pid_file, protected_program, state, streams};

/// Time limit for opening the root and all sources of bind mounts.
const SOURCES: Duration = Duration::from_secs(30);

/// Create a container: its process waits for start
#[derive(Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    options: CreateOptions,
}

impl Create {
    pub fn run(self, root: &Path, log: &RuntimeLog) -> anyhow::Result<()> {
        create(root, &self.options, false, log).map(drop)
    }
}

/// A container whose process waits at its start gate.
pub struct Created {
    pub pid: i32,
    pub init: OwnedFd,
    /// The master of its terminal, only for a command in the foreground.
    pub terminal: Option<OwnedFd>,
}

/// The parts of a container, checked before anything is made.
struct Request {
    spec: Spec,
    console: Console,
    stdio: Stdio,
    resources: Resources,
    cgroups: Cgroups,
    record: Record,
    /// Whether hooks have run, or at least the first one has.
    hooked: bool,
}

/// Makes a container. After a failure everything is removed again.
///
/// # Errors
/// The error names the field of the spec or the stage.
pub fn create(
    root: &Path,
    options: &CreateOptions,
    foreground: bool,
    log: &RuntimeLog,
) -> anyhow::Result<Created> {
    options.refuse_unsupported()?;
    warn_of_sockets(log);
    protected_program::ensure()?;
    streams::check_preserved(options.process.preserve_fds)?;
    let mut request = Request::new(options, foreground)?;
    let folder = StateFolder::create(root, &options.id)?;
    let made = make(&folder, &mut request, options, log);
    made.or_else(|error| {
        let record = folder.record().ok().flatten();
        let removed = match request.hooked {
            true => delete::delete(folder, record.as_ref(), log),
            false => delete::destroy(folder, record.as_ref()),
        };
        match removed {
            Ok(()) => Err(error),
            Err(left) => bail!("{error:#}; and what was made could not be removed: {left:#}"),
        }
    })
}

/// By the names of the variables with which systemd passes sockets to services: containers do not get them.
fn warn_of_sockets(log: &RuntimeLog) {
    for (name, effect) in [
        ("NOTIFY_SOCKET", "the container cannot say when it is ready (podman: use --sdnotify=conmon)"),
        ("LISTEN_FDS", "the container gets the sockets only with --preserve-fds, and not the variable"),
    ] {
        if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
            log.warn(&format!("{name} is set, which crisp oci does not pass on: {effect}"));
        }
    }
}

impl Request {
    fn new(options: &CreateOptions, foreground: bool) -> anyhow::Result<Self> {
        let Bundle { path, mut spec, rootfs } = Bundle::read(&options.bundle)?;
        let process = spec.process_mut().as_mut().context("process: missing in config.json")?;
        let terminal = process.terminal().unwrap_or(false);
        let console = Console::choose(terminal, options.process.console_socket.as_deref(), foreground)?;
        let stdio = streams::inherited(process, options.process.preserve_fds)?;
        let record = Record {
            id: options.id.clone(),
            executor_id: ContainerId::random(),
            oci_version: spec.version().clone(),
            bundle: path,
            rootfs,
            created: clock::now(),
            annotations: Record::annotations_of(spec.annotations().as_ref()),
            cgroup: cgroup::path(&spec, &options.id)?,
            own_pid_namespace: false,
            mappings: None,
            init: None,
            creating: true,
        };
        let resources = cgroup::resources(&spec)?;
        Ok(Self { spec, console, stdio, resources, cgroups: Cgroups::detect()?, record, hooked: false })
    }
}

fn make(
    folder: &StateFolder,
    request: &mut Request,
    options: &CreateOptions,
    log: &RuntimeLog,
) -> anyhow::Result<Created> {
    folder.write_spec(&request.spec)?;
    let (namespaces, pid) = namespaces::of_spec(&request.spec)?;
    request.record.own_pid_namespace = matches!(pid, PidNamespace::Own);
    request.record.mappings = namespaces.user.as_ref().map(|user| user.mappings.clone());
    cgroup::must_be_empty(&request.cgroups, &request.record.cgroup)?;
    folder.write_record(&request.record)?;
    let compiled = compile(request, &namespaces, pid)?;
    let starting = start(folder, request, &compiled, &namespaces)?;
    // From here on, the record names the process that a killed create leaves behind.
    request.record.init = Init::of(starting.pid, &starting.pidfd);
    folder.write_record(&request.record)?;
    let terminal = wait(&starting, request, compiled.plan.process.terminal, log)?;
    let starting = if starting.helper.is_some() {
        let starting = starting.wait_for_process()?;
        request.record.init = Init::of(starting.pid, &starting.pidfd);
        starting
    } else {
        starting
    };
    if request.record.init.is_none() {
        bail!("process {} of the container was killed while it was created", starting.pid);
    }
    request.record.creating = false;
    folder.write_record(&request.record)?;
    if let Some(path) = &options.process.pid_file {
        pid_file::write(path, starting.pid)?;
    }
    Ok(Created { pid: starting.pid, init: starting.pidfd, terminal })
}

fn compile(
    request: &Request,
    namespaces: &Namespaces,
    pid: PidNamespace<OwnedFd>,
) -> anyhow::Result<Compiled> {
    let Request { cgroups, record, resources, .. } = request;
    let group = cgroup::make(cgroups, &record.cgroup, resources)?;
    let whole = source::Options { recursive: true, ..source::Options::default() };
    let root = source::open(&record.rootfs, whole, SOURCES).context("root.path")?;
    let state = state::for_hooks(record);
    let inputs = Inputs {
        root: root.mount,
        cgroups: cgroups.clone(),
        cgroup: group.join()?,
        pid,
        user: namespaces.user.as_ref(),
        mounts: Vec::new(),
        pod_shm: false,
        standalone: true,
        hooks: hook_inputs(&request.spec, &state)?,
        source_deadline: SOURCES,
    };
    let compiled = compile::compile(&of_executor(&request.spec), inputs)?;
    // The following code forks this process, which must have only one thread.
    source::end_thread();
    Ok(compiled)
}

/// The process reports its pause, so that there is no socket for it.
fn hook_inputs<'a>(spec: &Spec, state: &'a hook::State) -> anyhow::Result<Option<HookInputs<'a>>> {
    let Some(hooks) = spec.hooks() else { return Ok(None) };
    let whole = source::Options { recursive: true, ..source::Options::default() };
    let open = || source::open(Path::new("/"), whole, SOURCES).context("open the root folder for hooks");
    let host = if needs_pause(hooks) { Some(open()?.mount) } else { None };
    Ok(Some(HookInputs { state, host, pause: None }))
}

/// The spec without the fields that this module handles.
fn of_executor(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    spec.set_domainname(None);
    if let Some(linux) = spec.linux_mut() {
        linux.set_sysctl(None);
    }
    spec
}

fn start(
    folder: &StateFolder,
    request: &mut Request,
    compiled: &Compiled,
    namespaces: &Namespaces,
) -> anyhow::Result<Starting> {
    let id = &request.record.executor_id;
    let gate = start_gate::listen(folder.as_fd(), GATE).context("make the start gate")?;
    let stdio = std::mem::take(&mut request.stdio);
    Ok(detached::create(id, &compiled.plan, &compiled.fds, stdio, namespaces, Some(gate.as_fd()))?)
}

/// Waits until the process is ready for its exec.
fn wait(
    starting: &Starting,
    request: &mut Request,
    wants_terminal: bool,
    log: &RuntimeLog,
) -> anyhow::Result<Option<OwnedFd>> {
    let (mut terminal, mut reported) = (None, Reported::new(wants_terminal));
    loop {
        let progress = starting.report.wait().context("wait for the container's process")?;
        let noted = reported.notes.len();
        let progress = reported.add(progress)?;
        reported.notes[noted..].iter().for_each(|note| log.warn(&note.to_string()));
        if let Some(master) = reported.terminal.take() {
            terminal = request.console.take(master)?;
        }
        match progress {
            None | Some(Progress::Pending | Progress::Notes(_) | Progress::Terminal(_)) => {}
            Some(Progress::Prepared) => {
                request.hooked = true;
                let state = state::of_spec(&request.record, Status::Creating).to_string();
                let user = request.record.mappings.is_some();
                hooks::run_in_pause(&request.spec, &state, starting, user)?;
                starting.report.proceed().context("wait for the container's process")?;
            }
            Some(Progress::Failed(error)) => return Err(error.into()),
            Some(Progress::Waiting) => return Ok(terminal),
            Some(Progress::Executed) => bail!("the container's process was killed before it was ready"),
        }
    }
}
