//! The executor: OCI spec in, running process out.
//!
//! ```text
//!  server                                      monitor
//!  Spec --compile--> Plan + descriptors  ====> run::start --clone3--> child --execve--> process
//! ```
//!
//! Cast: a [`plan::Plan`] is all that starting a container takes, flat, checked and opened.
//! `compile` (feature of the same name, the server's half) makes plans of specs, `rootfs` root file
//! systems, `source` mount sources, `seccomp` filters and `cgroup` cgroups; [`run`] (the monitor's
//! half) makes processes of plans. [`id`] has the ids of pods and containers.

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
