//! `process`: the command, its user and its capabilities.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;

use oci_spec::runtime::{LinuxSeccomp, Process, User};

use super::CompileError;
use super::capabilities::capabilities;
use super::field::{c_string, container_path, invalid, refuse};
use super::rlimits::rlimits;
use crate::{plan, seccomp};

/// `-1` means "no change" for the kernel, so it is not an id.
const NO_ID: u32 = u32::MAX;

pub(super) fn process(
    process: &Process,
    filter: Option<&LinuxSeccomp>,
) -> Result<plan::Process, CompileError> {
    refuse_unsupported(process)?;
    let user = process.user();
    Ok(plan::Process {
        args: args(process)?,
        env: environment(process)?,
        cwd: container_path(|| "process.cwd".to_owned(), process.cwd())?,
        uid: id("process.user.uid", user.uid())?,
        gid: id("process.user.gid", user.gid())?,
        groups: groups(user)?,
        umask: umask(user)?,
        capabilities: capabilities(process.capabilities().as_ref())?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        seccomp: filter.map(seccomp::to_bpf).transpose()?,
        oom_score_adj: oom_score_adj(process.oom_score_adj())?,
        apparmor_profile: match process.apparmor_profile().as_deref() {
            None | Some("") => None,
            Some(name) => Some(c_string(|| "process.apparmorProfile".to_owned(), name.as_bytes())?),
        },
        terminal: process.terminal().unwrap_or(false),
    })
}

fn refuse_unsupported(process: &Process) -> Result<(), CompileError> {
    let size = process.console_size().is_some_and(|size| size.height() != 0 || size.width() != 0);
    refuse(size, "process.consoleSize", "a terminal is resized by its client")?;
    refuse(process.command_line().is_some(), "process.commandLine", "it is for Windows; use process.args")?;
    refuse(
        process.user().username().is_some(),
        "process.user.username",
        "it is for Windows; use uid and gid",
    )?;
    let label = process.selinux_label().as_deref().is_some_and(|l| !l.is_empty());
    refuse(label, "process.selinuxLabel", "")?;
    refuse(process.io_priority().is_some(), "process.ioPriority", "")?;
    refuse(process.scheduler().is_some(), "process.scheduler", "")?;
    refuse(process.exec_cpu_affinity().is_some(), "process.execCPUAffinity", "use linux.resources.cpu.cpus")
}

fn args(process: &Process) -> Result<Vec<CString>, CompileError> {
    let args = process.args().as_deref().unwrap_or_default();
    match args.first() {
        None => return Err(invalid("process.args", "empty: there is no command to run")),
        Some(command) if command.is_empty() => {
            return Err(invalid("process.args[0]", "empty: there is no command to run"));
        }
        Some(_) => {}
    }
    args.iter()
        .enumerate()
        .map(|(i, arg)| c_string(|| format!("process.args[{i}]"), arg.as_bytes()))
        .collect()
}

/// Converts the environment. Of several values for one name the last one wins, at the position of the first.
fn environment(process: &Process) -> Result<Vec<CString>, CompileError> {
    let given = process.env().as_deref().unwrap_or_default();
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(given.len());
    let mut env: Vec<CString> = Vec::with_capacity(given.len());
    for (i, entry) in given.iter().enumerate() {
        let field = || format!("process.env[{i}]");
        let name = match entry.split_once('=') {
            // Values may be secrets: only the name is ever shown.
            None => return Err(invalid(field(), "it is not NAME=value")),
            Some(("", _)) => return Err(invalid(field(), "its name is empty")),
            Some((name, _)) => name,
        };
        let text = c_string(field, entry.as_bytes())?;
        match places.get(name) {
            Some(place) => env[*place] = text,
            None => {
                places.insert(name, env.len());
                env.push(text);
            }
        }
    }
    Ok(env)
}

fn id(field: &str, id: u32) -> Result<u32, CompileError> {
    if id == NO_ID { Err(invalid(field, "4294967295 is no id")) } else { Ok(id) }
}

fn groups(user: &User) -> Result<Vec<u32>, CompileError> {
    let given = user.additional_gids().as_deref().unwrap_or_default();
    let mut groups = Vec::with_capacity(given.len());
    let mut known = HashSet::new();
    for gid in given {
        let gid = id("process.user.additionalGids", *gid)?;
        if known.insert(gid) {
            groups.push(gid);
        }
    }
    Ok(groups)
}

fn umask(user: &User) -> Result<Option<u32>, CompileError> {
    match user.umask() {
        Some(mask) if mask > 0o777 => Err(invalid("process.user.umask", format!("{mask:o} is above 777"))),
        mask => Ok(mask),
    }
}

fn oom_score_adj(value: Option<i32>) -> Result<Option<i32>, CompileError> {
    match value {
        Some(v) if !(-1000..=1000).contains(&v) => {
            Err(invalid("process.oomScoreAdj", format!("{v} is not between -1000 and 1000")))
        }
        value => Ok(value),
    }
}
