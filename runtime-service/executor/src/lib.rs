//! The executor: OCI spec in, running process out.
//!
//! ```text
//!  server                                      monitor
//!  Spec --compile--> Plan + descriptors  ====> run::start --clone3--> child --execve--> process
//! ```

#[cfg(feature = "compile")]
pub mod cgroup;
#[cfg(feature = "compile")]
pub mod compile;
pub mod id;
#[cfg(feature = "compile")]
pub mod inroot;
pub mod plan;
#[cfg(feature = "compile")]
pub mod rootfs;
pub mod run;
#[cfg(feature = "compile")]
pub mod seccomp;
#[cfg(all(test, feature = "compile"))]
mod skip;
#[cfg(feature = "compile")]
pub mod source;
mod sys;
#[cfg(feature = "compile")]
pub mod user;
