//! The changes that devices make to a container.

use std::path::{Component, Path, PathBuf};

use crisp_executor::hook::Kind;
use serde::{Deserialize, Serialize};

use super::file::{ContainerEdits, Mount, RawDeviceNode, RawHook};

/// All changes that devices make to a container, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edits {
    /// Names and values.
    pub env: Vec<(String, String)>,
    pub nodes: Vec<DeviceNode>,
    pub mounts: Vec<HostMount>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Missing in records of earlier releases, which refused hooks.
    #[serde(default)]
    pub hooks: Vec<Hook>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    /// `b`, `c`, `u` or `p`. None: as the host's node; the same for the numbers.
    pub kind: Option<char>,
    pub numbers: Option<(i64, i64)>,
    pub mode: Option<u32>,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// A mount in the form of the OCI spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMount {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    /// Of the file system; empty for a bind mount.
    pub kind: String,
    pub options: Vec<String>,
}

/// A program that is run at a moment of the container's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub kind: Kind,
    pub path: PathBuf,
    /// With the name of the program.
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// Seconds.
    pub timeout: Option<i64>,
}

/// An edit that is refused.
pub(super) enum Refused {
    Unsupported(&'static str),
    Invalid { field: String, reason: String },
}

impl Edits {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn add(&mut self, edits: &ContainerEdits) -> Result<(), Refused> {
        for (given, field) in
            [(edits.intel_rdt.is_some(), "intelRdt"), (!edits.net_devices.is_empty(), "netDevices")]
        {
            if given {
                return Err(Refused::Unsupported(field));
            }
        }
        for (index, line) in edits.env.iter().enumerate() {
            let named = line.split_once('=').filter(|(name, _)| !name.is_empty() && !line.contains('\0'));
            let (name, value) = named.ok_or_else(|| invalid("env", index, "it is not NAME=value"))?;
            self.env.push((name.to_owned(), value.to_owned()));
        }
        for (index, node) in edits.device_nodes.iter().enumerate() {
            self.nodes.push(device_node(node).map_err(|reason| invalid("deviceNodes", index, reason))?);
        }
        for (index, mount) in edits.mounts.iter().enumerate() {
            self.mounts.push(host_mount(mount).map_err(|reason| invalid("mounts", index, reason))?);
        }
        for (index, raw) in edits.hooks.iter().enumerate() {
            self.hooks.push(hook(raw).map_err(|(field, reason)| Refused::Invalid {
                field: format!("hooks[{index}].{field}"),
                reason: reason.to_owned(),
            })?);
        }
        // Group 0 would give a process more rights, so it is never added.
        self.groups.extend(edits.additional_gids.iter().filter(|group| **group != 0));
        Ok(())
    }
}

fn invalid(list: &str, index: usize, reason: &str) -> Refused {
    Refused::Invalid { field: format!("{list}[{index}]"), reason: reason.to_owned() }
}

fn device_node(node: &RawDeviceNode) -> Result<DeviceNode, &'static str> {
    let container_path = absolute(&node.path).ok_or("its path is not absolute")?;
    let host_path = match node.host_path.as_str() {
        "" => container_path.clone(),
        path => absolute(path).ok_or("its hostPath is not absolute")?,
    };
    let kind = match node.kind.as_str() {
        "" => None,
        "b" => Some('b'),
        "c" => Some('c'),
        "u" => Some('u'),
        "p" => Some('p'),
        _ => return Err("its type is none of b, c, u and p"),
    };
    if !node.permissions.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err("its permissions are not made of r, w and m");
    }
    if node.file_mode.is_some_and(|mode| mode > 0o7777) {
        return Err("its fileMode is not one");
    }
    let numbers = match (node.major.unwrap_or(0), node.minor.unwrap_or(0)) {
        (0, 0) => None,
        numbers => Some(numbers),
    };
    Ok(DeviceNode {
        container_path,
        host_path,
        kind,
        numbers,
        mode: node.file_mode,
        permissions: if node.permissions.is_empty() { "rwm".to_owned() } else { node.permissions.clone() },
        uid: node.uid,
        gid: node.gid,
    })
}

fn host_mount(mount: &Mount) -> Result<HostMount, &'static str> {
    let container_path = absolute(&mount.container_path).ok_or("its containerPath is not absolute")?;
    let is_bind = matches!(mount.kind.as_str(), "" | "bind");
    if is_bind && absolute(&mount.host_path).is_none() {
        return Err("its hostPath is not absolute");
    }
    let kind = if is_bind { String::new() } else { mount.kind.clone() };
    Ok(HostMount {
        container_path,
        host_path: (&mount.host_path).into(),
        kind,
        options: mount.options.clone(),
    })
}

fn hook(raw: &RawHook) -> Result<Hook, (&'static str, &'static str)> {
    let kind = Kind::parse(&raw.hook_name).ok_or(("hookName", "it is not the name of a hook"))?;
    if !Path::new(&raw.path).is_absolute() || raw.path.contains('\0') {
        return Err(("path", "it is not an absolute path"));
    }
    if raw.args.iter().any(|arg| arg.contains('\0')) {
        return Err(("args", "one has a zero byte"));
    }
    let is_named = |line: &String| line.find('=').is_some_and(|end| end > 0) && !line.contains('\0');
    if !raw.env.iter().all(is_named) {
        return Err(("env", "one is not NAME=value"));
    }
    if raw.timeout.is_some_and(|seconds| seconds <= 0) {
        return Err(("timeout", "it is not above 0"));
    }
    Ok(Hook {
        kind,
        path: (&raw.path).into(),
        args: raw.args.clone(),
        env: raw.env.clone(),
        timeout: raw.timeout,
    })
}

fn absolute(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let sound = |part| matches!(part, Component::RootDir | Component::Normal(_) | Component::CurDir);
    (path.is_absolute() && !text.contains('\0') && path.components().all(sound)).then(|| path.to_owned())
}
