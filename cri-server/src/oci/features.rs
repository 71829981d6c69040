//! `crisp oci features`: prints the features of this runtime in the form of the runtime spec (features.md).

use crisp_executor::compile::capabilities::BY_NUMBER;
use crisp_executor::hook::Kind;
use serde_json::{Value, json};

use crate::print;

/// Print the features of crisp oci as JSON
#[derive(Debug, clap::Args)]
pub struct Features {}

/// The options that `compile` accepts.
const MOUNT_OPTIONS: [&str; 35] = [
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "idmap",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "rbind",
    "relatime",
    "ridmap",
    "ro",
    "rprivate",
    "rro",
    "rshared",
    "rslave",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "size",
    "mode",
    "nr_inodes",
    "nr_blocks",
    "noswap",
];

impl Features {
    pub fn run(self) -> anyhow::Result<()> {
        print::line(format_args!("{:#}", features()))?;
        Ok(())
    }
}

fn features() -> Value {
    let capabilities: Vec<String> = BY_NUMBER.iter().map(|capability| format!("CAP_{capability}")).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": Kind::ALL.map(Kind::name).as_slice(),
        "mountOptions": MOUNT_OPTIONS.as_slice(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
        "annotations": { "org.opencontainers.runc.checkpoint.enabled": "false" },
    })
}
