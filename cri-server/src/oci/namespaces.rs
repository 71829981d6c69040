//! `linux.namespaces`: opens those that have a path.

use std::path::Path;

use anyhow::{Context as _, bail};
use crisp_executor::plan::PidNamespace;
use crisp_executor::run::detached::{Namespace, Namespaces};
use crisp_executor::user_namespace::{IdMappings, IdRange, UserNamespace};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, fstat, open, stat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The namespaces that the executor makes or joins before those of the plan, and the plan's PID namespace.
/// The compiler checks the others.
///
/// # Errors
/// The error names the field.
pub fn of_spec(spec: &Spec) -> anyhow::Result<(Namespaces, PidNamespace<OwnedFd>)> {
    let linux = spec.linux().as_ref().context("linux: missing in config.json")?;
    let mut found = Namespaces::default();
    let mut pid = PidNamespace::Host;
    for (index, listed) in linux.namespaces().iter().flatten().enumerate() {
        let path = listed.path().as_deref().filter(|path| !path.as_os_str().is_empty());
        let field = || format!("linux.namespaces[{index}].path");
        match listed.typ() {
            LinuxNamespaceType::Network => found.network = one(path, "net").with_context(field)?,
            LinuxNamespaceType::Ipc => found.ipc = one(path, "ipc").with_context(field)?,
            LinuxNamespaceType::Uts => found.uts = one(path, "uts").with_context(field)?,
            LinuxNamespaceType::Pid => {
                pid = match one(path, "pid").with_context(field)? {
                    Namespace::Existing(fd) => {
                        PidNamespace::Target(process_in(path, fd).with_context(field)?)
                    }
                    Namespace::Caller => PidNamespace::Host,
                    Namespace::New => PidNamespace::Own,
                };
            }
            LinuxNamespaceType::User if path.is_none() => found.user = Some(user(linux)?),
            _ => {}
        }
    }
    set(&mut found, spec, linux)?;
    Ok((found, pid))
}

/// `kind`: its name in /proc/self/ns. A path to the caller's own is as good as none, and what would be set in it would
/// be set for the host.
fn one(path: Option<&Path>, kind: &str) -> anyhow::Result<Namespace> {
    let Some(path) = path else { return Ok(Namespace::New) };
    // NONBLOCK: a FIFO would never open.
    let fd = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open {}", path.display()))?;
    let own = stat(format!("/proc/self/ns/{kind}")).context("look at the caller's own")?;
    let given = fstat(&fd)?;
    let same = (own.st_dev, own.st_ino) == (given.st_dev, given.st_ino);
    Ok(if same { Namespace::Caller } else { Namespace::Existing(fd) })
}

/// A pidfd of a process in the PID namespace, where there is one: before Linux 6.17 its /proc can only be got from a
/// process. Else the namespace itself.
fn process_in(path: Option<&Path>, namespace: OwnedFd) -> anyhow::Result<OwnedFd> {
    let wanted = fstat(&namespace)?;
    let open = |pid: i32| {
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // After the descriptor: from then on the number is of this process, or of none.
        let found = stat(format!("/proc/{pid}/ns/pid")).ok()?;
        ((found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)).then_some(process)
    };
    let named = path
        .and_then(Path::to_str)
        .and_then(|path| path.strip_prefix("/proc/")?.strip_suffix("/ns/pid")?.parse().ok());
    if let Some(process) = named.and_then(open) {
        return Ok(process);
    }
    let processes = std::fs::read_dir("/proc").context("list processes")?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(open).next().unwrap_or(namespace))
}

/// Host names and sysctls must not be set in the host's namespaces.
fn set(found: &mut Namespaces, spec: &Spec, linux: &Linux) -> anyhow::Result<()> {
    let non_empty = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    (found.hostname, found.domainname) = (non_empty(spec.hostname()), non_empty(spec.domainname()));
    for (field, name) in [("hostname", &found.hostname), ("domainname", &found.domainname)] {
        if name.is_some() && matches!(found.uts, Namespace::Caller) {
            bail!("{field}: it would be set for the host: list the namespace uts in linux.namespaces");
        }
    }
    for (name, value) in linux.sysctl().iter().flatten() {
        check_sysctl(found, name)?;
        crisp_executor::run::sysctl::check(name, value).context("linux.sysctl")?;
        found.sysctls.push((name.clone(), value.clone()));
    }
    found.sysctls.sort();
    Ok(())
}

fn check_sysctl(found: &Namespaces, name: &str) -> anyhow::Result<()> {
    let dotted = name.replace('/', ".");
    let (namespace, kind) = match dotted.as_str() {
        name if name.starts_with("net.") => (&found.network, "network"),
        name if name.starts_with("fs.mqueue.") || is_of_ipc(name) => (&found.ipc, "ipc"),
        "kernel.domainname" | "kernel.hostname" => (&found.uts, "uts"),
        _ => bail!("linux.sysctl: {name:?} is a setting of the whole host"),
    };
    if matches!(namespace, Namespace::Caller) {
        bail!(
            "linux.sysctl: {name:?} would be set for the host: list the namespace {kind} in linux.namespaces"
        );
    }
    Ok(())
}

fn is_of_ipc(name: &str) -> bool {
    let Some(name) = name.strip_prefix("kernel.") else { return false };
    name == "sem" || ["shm", "msg"].iter().any(|start| name.starts_with(start))
}

fn user(linux: &Linux) -> anyhow::Result<UserNamespace> {
    let mappings = IdMappings {
        uids: ranges(linux.uid_mappings().as_ref()),
        gids: ranges(linux.gid_mappings().as_ref()),
    };
    mappings.check().context("linux.uidMappings, linux.gidMappings")?;
    Ok(UserNamespace::new(mappings)?)
}

fn ranges(mappings: Option<&Vec<LinuxIdMapping>>) -> Vec<IdRange> {
    let range =
        |m: &LinuxIdMapping| IdRange { container: m.container_id(), host: m.host_id(), length: m.size() };
    mappings.into_iter().flatten().map(range).collect()
}
