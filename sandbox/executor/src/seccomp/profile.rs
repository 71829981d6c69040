//! Profiles from files, in the OCI format or that of docker, which adds conditions on the machine and the
//! container (`includes`, `excludes`) and a map of architectures.

use std::path::Path;

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use super::SeccompError;

/// The largest size of a file; real ones are smaller.
const MAX_BYTES: u64 = 4 << 20;

/// Unknown keys are errors: a misspelt `excludes` would allow the calls that it is meant to forbid.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    /// A second form of `defaultErrnoRet`, by name; the number takes precedence.
    #[serde(default, rename = "defaultErrno")]
    _default_errno: Option<String>,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    arch_map: Vec<Architecture>,
    #[serde(default)]
    flags: Vec<LinuxSeccompFilterFlag>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Architecture {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    /// The old form of docker.
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default, rename = "errno")]
    _errno: Option<String>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Option<ProfileFilter>,
    #[serde(default)]
    excludes: Option<ProfileFilter>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileFilter {
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    caps: Option<Vec<Capability>>,
    min_kernel: Option<String>,
}

/// The inputs of conditions.
pub(super) struct Context<'a> {
    pub capabilities: &'a Capabilities,
    /// Major and minor version.
    pub kernel: (u32, u32),
}

impl<'a> Context<'a> {
    pub(super) fn of_this_machine(capabilities: &'a Capabilities) -> Self {
        let name = rustix::system::uname();
        let kernel = version(&name.release().to_string_lossy()).unwrap_or((0, 0));
        Self { capabilities, kernel }
    }

    /// Whether an entry applies, by docker's rules: all capabilities, one of the architectures, and at least
    /// the kernel.
    fn include(&self, only: &ProfileFilter) -> Result<bool, String> {
        let caps = only.caps.iter().flatten().all(|cap| self.capabilities.contains(cap));
        Ok(caps && self.arch(only).unwrap_or(true) && self.at_least(only)?.unwrap_or(true))
    }

    /// Whether an entry is left out: one of the capabilities, one of the architectures, or at least the
    /// kernel.
    fn exclude(&self, only: &ProfileFilter) -> Result<bool, String> {
        let caps = only.caps.iter().flatten().any(|cap| self.capabilities.contains(cap));
        Ok(caps || self.arch(only).unwrap_or(false) || self.at_least(only)?.unwrap_or(false))
    }

    fn arch(&self, only: &ProfileFilter) -> Option<bool> {
        let native = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        only.arches.as_ref().filter(|a| !a.is_empty()).map(|arches| arches.iter().any(|arch| arch == native))
    }

    fn at_least(&self, only: &ProfileFilter) -> Result<Option<bool>, String> {
        let Some(text) = &only.min_kernel else { return Ok(None) };
        let wanted = version(text).ok_or_else(|| format!("minKernel {text:?} is not like 4.8"))?;
        Ok(Some(self.kernel >= wanted))
    }
}

/// Parses both `6.1.0-49-amd64` and `4.8`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn load(path: &Path, context: &Context<'_>) -> Result<LinuxSeccomp, SeccompError> {
    let read = |source| SeccompError::Read { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(read)?;
    if !size.is_file() || size.len() > MAX_BYTES {
        let reason = format!("it must be a file of at most {MAX_BYTES} bytes");
        return Err(SeccompError::Malformed { path: path.to_owned(), reason });
    }
    let bytes = std::fs::read(path).map_err(read)?;
    parse(&bytes, context).map_err(|reason| SeccompError::Malformed { path: path.to_owned(), reason })
}

pub(super) fn parse(bytes: &[u8], context: &Context<'_>) -> Result<LinuxSeccomp, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let mut architectures = file.architectures;
    for entry in file.arch_map {
        architectures.push(entry.architecture);
        architectures.extend(entry.sub_architectures.into_iter().flatten());
    }
    let mut syscalls = Vec::with_capacity(file.syscalls.len());
    for (index, entry) in file.syscalls.into_iter().enumerate() {
        let at = |reason| format!("syscalls[{index}]: {reason}");
        let include = entry.includes.as_ref().map_or(Ok(true), |only| context.include(only)).map_err(at)?;
        let exclude = entry.excludes.as_ref().map_or(Ok(false), |only| context.exclude(only)).map_err(at)?;
        if include && !exclude {
            syscalls.push(convert(entry).map_err(at)?);
        }
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(file.default_action)
        .set_default_errno_ret(file.default_errno_ret)
        .set_architectures((!architectures.is_empty()).then_some(architectures))
        .set_flags((!file.flags.is_empty()).then_some(file.flags))
        .set_listener_path(file.listener_path.filter(|p| !p.is_empty()).map(Into::into))
        .set_listener_metadata(file.listener_metadata.filter(|m| !m.is_empty()))
        .set_syscalls(Some(syscalls));
    Ok(profile)
}

fn convert(entry: Entry) -> Result<LinuxSyscall, String> {
    let mut names = entry.names;
    names.extend(entry.name);
    if names.is_empty() {
        return Err("it names no call".to_owned());
    }
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(names)
        .set_action(entry.action)
        .set_errno_ret(entry.errno_ret)
        .set_args(entry.args.filter(|args| !args.is_empty()));
    Ok(syscall)
}
