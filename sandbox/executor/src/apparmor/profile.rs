//! The text of the default profile.

use std::path::Path;

use super::DEFAULT_PROFILE;

/// The folder of the parser's include files.
const INCLUDES: &str = "etc/apparmor.d";

/// The rules of every container under AppArmor, in the form that Docker's and containerd's default profiles
/// share: access to all of its own files, sockets and capabilities, but no mounts, no kernel settings in
/// /proc and /sys, and signals and traces only among its own processes.
///
/// `runtime`: the profile that this server itself runs under, if any; its signals must arrive.
pub(super) fn text(root: &Path, runtime: Option<&str>) -> String {
    let there = |file: &str| root.join(INCLUDES).join(file).exists();
    let tunables = if there("tunables/global") { "#include <tunables/global>" } else { "@{PROC}=/proc/" };
    let base = if there("abstractions/base") { "#include <abstractions/base>" } else { "" };
    let runtime = runtime.map(|name| format!("signal (receive) peer=\"{name}\",")).unwrap_or_default();
    let name = DEFAULT_PROFILE;
    format!(
        r"{tunables}

profile {name} flags=(attach_disconnected,mediate_deleted) {{
  {base}

  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  {runtime}
  signal (send,receive) peer={name},
  ptrace (trace,tracedby,read,readby) peer={name},

  # Files directly in /proc, and folders that are neither of a process nor /proc/sys.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}}/** w,
  # Of /proc/sys only /proc/sys/kernel/shm*.
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/mem rwklx,
  deny @{{PROC}}/kmem rwklx,
  deny @{{PROC}}/kcore rwklx,

  deny mount,

  # Of /sys only /sys/fs/cgroup.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"
    )
}
