//! The executor: OCI spec in, running process out.
//!
//! ```text
//!  server                                      monitor
//!  Spec --compile--> Plan + descriptors  ====> run::start --clone3--> child --execve--> process
//! ```

pub mod id;
pub mod plan;
