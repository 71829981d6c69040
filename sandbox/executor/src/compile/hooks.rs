//! The hooks of a spec, as far as its start takes part in them.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use oci_spec::runtime::{Hook, Hooks, Spec};

use super::field::{invalid, refuse};
use super::{CompileError, Descriptors};
use crate::hook::{Kind, State, timeout};
use crate::plan::{self, HookPause, StartHook};

/// The inputs for a spec with hooks.
#[derive(Debug)]
pub struct HookInputs<'a> {
    pub state: &'a State,
    /// The file systems of the host, as a detached tree of private mounts; needed if there is a pause.
    pub host: Option<OwnedFd>,
    /// The process's end of its pause, of [`crate::hook::Pause::pair`]. None: it reports the pause.
    pub pause: Option<OwnedFd>,
}

/// Checks all hooks; None if the start takes part in none.
pub(super) fn hooks(
    spec: &Spec,
    inputs: Option<HookInputs<'_>>,
    fds: &mut Descriptors,
) -> Result<Option<plan::Hooks>, CompileError> {
    let Some(hooks) = spec.hooks() else { return Ok(None) };
    check(hooks)?;
    let pause_needed = needs_pause(hooks);
    let start = Kind::StartContainer.of(hooks);
    if !pause_needed && start.is_empty() {
        return Ok(None);
    }
    let Some(inputs) = inputs else {
        refuse(true, "hooks", "")?;
        return Ok(None);
    };
    let pause =
        if pause_needed { Some(pause(spec, inputs.state, inputs.host, inputs.pause, fds)?) } else { None };
    Ok(Some(plan::Hooks {
        pause,
        start_container: start.iter().map(start_hook).collect::<Result<_, _>>()?,
        state: inputs.state.without_pid("created"),
    }))
}

/// Whether a spec has hooks that run while its start waits.
#[must_use]
pub fn needs_pause(hooks: &Hooks) -> bool {
    Kind::IN_PAUSE.iter().any(|kind| !kind.of(hooks).is_empty())
}

fn check(hooks: &Hooks) -> Result<(), CompileError> {
    for kind in Kind::ALL {
        for (index, hook) in kind.of(hooks).iter().enumerate() {
            let field = |name: &str| format!("hooks.{kind}[{index}].{name}");
            if !hook.path().is_absolute() {
                return Err(invalid(field("path"), format!("{} is not absolute", hook.path().display())));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return Err(invalid(field("timeout"), "it is not above 0"));
            }
            start_hook(hook).map_err(|_| invalid(field("args"), "a text of the hook has a zero byte"))?;
        }
    }
    Ok(())
}

fn pause(
    spec: &Spec,
    state: &State,
    host: Option<OwnedFd>,
    socket: Option<OwnedFd>,
    fds: &mut Descriptors,
) -> Result<HookPause, CompileError> {
    let host = host.ok_or_else(|| invalid("hooks", "the file systems of the host are missing"))?;
    let root = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path());
    let root = state.bundle.join(root);
    let root = CString::new(root.as_os_str().as_bytes());
    Ok(HookPause {
        socket: socket.map(|socket| fds.add(socket)).transpose()?,
        host: fds.add(host)?,
        root: root.map_err(|_| invalid("root.path", "it has a zero byte"))?,
    })
}

fn start_hook(hook: &Hook) -> Result<StartHook, CompileError> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| invalid("hooks", "a text has a zero byte"));
    let list = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|line| text(line.as_bytes())).collect::<Result<Vec<_>, _>>()
    };
    let path = text(hook.path().as_os_str().as_bytes())?;
    let mut args = list(hook.args())?;
    if args.is_empty() {
        args.push(path.clone());
    }
    let timeout_ms = u32::try_from(timeout(hook).as_millis()).unwrap_or(u32::MAX);
    Ok(StartHook { path, args, env: list(hook.env())?, timeout_ms })
}
