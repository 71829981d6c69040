//! Runs the hooks of a spec: see [`crisp_executor::hook`] for their moments.

use anyhow::Context as _;
use crisp_executor::hook::{Container, HookError, Kind, Runner};
use crisp_executor::run::Starting;
use oci_spec::runtime::Spec;
use rustix::fd::AsFd as _;

/// In the cgroup of this command, as with runc.
fn runner(state: &str) -> Runner<'_> {
    Runner { state, cgroup: None, cancel: None }
}

/// Runs the hooks of the pause in which the process of a new container waits. `state` is the container's state,
/// `user` whether it has a user namespace.
///
/// # Errors
/// The failure of the first hook that fails; the container must not be created then.
pub fn run_in_pause(spec: &Spec, state: &str, starting: &Starting, user: bool) -> anyhow::Result<()> {
    let hooks = spec.hooks().as_ref().context("the process waits for hooks, but there are none")?;
    Ok(runner(state).run_in_pause(hooks, Container { process: starting.pidfd.as_fd(), user })?)
}

/// Whether there are hooks for [`run_all`].
pub fn has(kind: Kind, spec: &Spec) -> bool {
    spec.hooks().as_ref().is_some_and(|hooks| !kind.of(hooks).is_empty())
}

/// Runs hooks after the start or the end of a container; a failure does not stop the others. Returns the failures,
/// which by the spec are only logged.
pub fn run_all(kind: Kind, spec: &Spec, state: &str) -> Vec<HookError> {
    spec.hooks().as_ref().map(|hooks| runner(state).run_all(kind, hooks)).unwrap_or_default()
}
