//! Hooks: programs that a spec names for moments of a container's life, see config.md of the OCI runtime spec.
//!
//! ```text
//!  caller (server, crisp oci)                     container's first process
//!  Pause::pair ---- descriptor in the plan ---->  namespaces, root, mounts; the host's file systems become the root
//!                                                   of its mount namespace, with the container's root in them
//!  Pause::wait  <-------------------------------  waits
//!    prestart, createRuntime    on the host
//!    createContainer            in the container's namespaces
//!  Pause::proceed ----------------------------->  switches to the container's root, becomes the user
//!                                                   startContainer: it runs these itself, with its own rights
//!    poststart                  on the host       execve
//!    poststop                   on the host, after the end
//! ```
//!
//! A hook of the first three moments is a program of the host, with the rights of the caller. It never joins a PID
//! namespace: a process of the pod that may trace others would get the rights of the host by it. So the pid in its
//! state is that of the host, also for createContainer. A startContainer hook is a program of the container, which an
//! image can replace: it never has more rights than the container's own process.
//! The process that waits for it has no more either by then, nor descriptors of the host: the hook may inspect it.
//!
//! Hooks of prestart and createRuntime find the bundle's rootfs as it is on the host, where the container's root is not
//! mounted. The time limit of a hook begins at its exec: reading its file from a file system that does not answer has
//! none.
//!
//! Cast: [`Kind`] is the moment, [`State`] what a hook reads from its standard input, [`Runner`] runs hooks,
//! [`Pause`] is the caller's end of the pause.

mod kind;
mod output;
mod pause;
mod run;
mod state;

pub(crate) use kind::timeout;
pub use kind::{Kind, limit};
pub use pause::{Pause, Paused};
pub use run::{Container, HookError, Runner};
pub use state::State;
