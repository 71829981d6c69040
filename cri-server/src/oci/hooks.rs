//! The hooks of a spec that run on the host.
//!
//! prestart and createRuntime run when the container has its namespaces and mounts, before its pivot_root;
//! poststart and poststop run after start and delete. createContainer and startContainer are not supported:
//! they would run inside the container, where programs of the host cannot be reached.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::wait::is_readable_within;

/// Time limit of hooks without a timeout.
const TIMEOUT: Duration = Duration::from_secs(60);

/// # Errors
/// The spec has a hook that is not supported; the error names the first kind.
pub fn refuse_unsupported(spec: &Spec) -> anyhow::Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    for (name, inside) in
        [("createContainer", hooks.create_container()), ("startContainer", hooks.start_container())]
    {
        if inside.as_ref().is_some_and(|inside| !inside.is_empty()) {
            bail!(
                "hooks.{name}: is not supported: crisp oci runs prestart, createRuntime, poststart and poststop"
            );
        }
    }
    let [(_, prestart), (_, create)] = before_root(hooks);
    let all = [prestart, create, hooks.poststart().as_ref(), hooks.poststop().as_ref()];
    match all.into_iter().flatten().flatten().map(Hook::path).find(|path| !path.is_absolute()) {
        Some(path) => bail!("hooks: the path {} is not absolute", path.display()),
        None => Ok(()),
    }
}

fn before_root(hooks: &Hooks) -> [(&'static str, Option<&Vec<Hook>>); 2] {
    [("prestart", hooks.prestart().as_ref()), ("createRuntime", hooks.create_runtime().as_ref())]
}

/// Whether there are hooks for [`run_before_root`].
pub fn has_before_root(spec: &Spec) -> bool {
    let has = |hooks: &Hooks| {
        before_root(hooks).iter().any(|(_, hooks)| hooks.is_some_and(|hooks| !hooks.is_empty()))
    };
    spec.hooks().as_ref().is_some_and(has)
}

/// Runs the hooks between the setup of a container's namespaces and its pivot_root. `state` is the
/// container's state.
///
/// # Errors
/// The failure of the first hook that fails; the container must not be created then.
pub fn run_before_root(spec: &Spec, state: &str) -> anyhow::Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    for (name, hooks) in before_root(hooks) {
        for hook in hooks.into_iter().flatten() {
            run(hook, state).with_context(|| format!("hooks.{name}: {}", hook.path().display()))?;
        }
    }
    Ok(())
}

/// Runs hooks one after the other; a failure does not stop the others. `state`, the container's state, is
/// their standard input. Returns the failures.
pub fn run_all(name: &str, hooks: Option<&Vec<Hook>>, state: &str) -> Vec<String> {
    let failure = |hook: &Hook| {
        let error = run(hook, state).err()?;
        Some(format!("hooks.{name}: {}: {error:#}", hook.path().display()))
    };
    hooks.into_iter().flatten().filter_map(failure).collect()
}

#[expect(clippy::disallowed_methods, reason = "a hook of the spec is a program of the host")]
fn run(hook: &Hook, state: &str) -> anyhow::Result<()> {
    let mut command = std::process::Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(args);
    }
    let env = hook.env().iter().flatten().filter_map(|entry| entry.split_once('='));
    command.env_clear().envs(env).stdin(input(state)?).stdout(Stdio::null()).stderr(Stdio::null());
    wait(command.spawn()?, timeout(hook))
}

/// A file and not a pipe: writing a state that is longer than a pipe's buffer would block on a hook that does not
/// read it.
fn input(state: &str) -> anyhow::Result<File> {
    let flags = MemfdFlags::CLOEXEC;
    let file = match memfd_create("state", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create("state", flags),
        file => file,
    };
    let mut file = File::from(file.context("make a file for its input")?);
    file.write_all(state.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn timeout(hook: &Hook) -> Duration {
    hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map_or(TIMEOUT, Duration::from_secs)
}

fn wait(mut child: Child, timeout: Duration) -> anyhow::Result<()> {
    let ended = end_within(&mut child, timeout);
    if !matches!(ended, Ok(Some(_))) {
        // It must not work on what is removed now.
        let _ = child.kill();
        let _ = child.wait();
    }
    match ended? {
        None => bail!("no end within {timeout:?}"),
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{status}"),
    }
}

fn end_within(child: &mut Child, timeout: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let pid = Pid::from_raw(child.id().cast_signed()).context("it has no process id")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    if is_readable_within(&pidfd, timeout)? { Ok(Some(child.wait()?)) } else { Ok(None) }
}
