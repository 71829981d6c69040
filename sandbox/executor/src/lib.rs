//! The executor converts an OCI spec to a running process. It uses no tokio, no gRPC and no HTTP.
//!
//! ```text
//!  server (feature "compile")                                  monitor
//!
//!  layers --rootfs::assemble-----> detached root ---+
//!  Cgroups::create/apply/join ---> JoinFds ---------+
//!  Spec ---------------------------------------------+--compile--> Plan + descriptors
//!    mounts --source::open_all---> detached mounts                     |
//!    seccomp --seccomp::to_bpf---> BPF                                 v
//!                                             run::start --clone3--> child --execve--> process
//! ```
//!
//! Cast: [`plan::Plan`] is shared by both sides, [`ids::PodId`] and [`ids::ContainerId`] identify pods and
//! containers, [`run::start`] and [`run::exec`] make processes. [`run::detached`] does so for callers without
//! a monitor (`crisp oci`), whose processes wait at a [`run::start_gate`]. On the server's side
//! `compile::compile` makes plans, `cgroup::Cgroups` and `cgroup::Cgroup` limit, measure and kill,
//! `rootfs::assemble` stacks layers, `source` opens host paths within a deadline, `seccomp` has profiles and
//! their compiler, `apparmor` the default profile, `user::resolve` and `in_root` read files of images,
//! `Program` starts the monitor in its cgroup, [`hook`] runs hooks. [`user_namespace`] maps ids for a pod that has a user
//! namespace: sources of mounts and layers are then passed with mapped ids, and `run` makes the container
//! inside the namespace.
//!
//! ```
//! # #[cfg(feature = "compile")] {
//! use crisp_executor::cgroup::CgroupPath;
//! let pod = CgroupPath::parse("/kubepods/besteffort/pod1")?;
//! assert_eq!(pod.child("web")?.as_str(), "/kubepods/besteffort/pod1/web");
//! assert!(pod.child("../pod2").is_err());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

#[cfg(feature = "compile")]
pub mod apparmor;
#[cfg(feature = "compile")]
pub mod cgroup;
#[cfg(feature = "compile")]
pub mod compile;
#[cfg(feature = "compile")]
pub mod hook;
pub mod ids;
pub mod in_root;
#[cfg(feature = "compile")]
pub mod mount_table;
pub mod open_files;
pub mod plan;
#[cfg(feature = "compile")]
pub mod rootfs;
pub mod run;
#[cfg(feature = "compile")]
pub mod seccomp;
#[cfg(feature = "compile")]
pub mod source;
mod sys;
#[cfg(feature = "compile")]
pub mod user;
pub mod user_namespace;

#[cfg(feature = "compile")]
pub use sys::program::{Program, ProgramError, ProgramFile, SpawnOptions, Spawned};
#[cfg(feature = "compile")]
pub use sys::{give_freed_memory_back, give_large_buffers_back, give_program_pages_back, pidfd_send_signal};

#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz {
    //! Entry points of the parsers for fuzz targets. Every function must return for any input.

    /// Reads a seccomp profile and compiles it.
    pub fn seccomp(bytes: &[u8]) {
        crate::seccomp::read_and_compile(bytes);
    }
}
