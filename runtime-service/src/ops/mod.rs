//! What is done to containers and pods, one operation per file: stages with deadlines, each with its undo step.

mod attach_output;
pub(crate) mod container_attach;
pub(crate) mod container_cgroup;
pub(crate) mod container_copy;
pub(crate) mod container_create;
pub(crate) mod container_exec;
pub(crate) mod container_prepare;
pub(crate) mod container_remove;
pub(crate) mod container_spec;
pub(crate) mod container_start;
pub(crate) mod container_stop;
pub(crate) mod container_update;
mod exec;
pub(crate) mod exec_sync;
mod image_contents;
mod image_volume;
pub(crate) mod log_reopen;
mod pid_namespace;
pub(crate) mod pod_port_forward;
pub(crate) mod pod_remove;
pub(crate) mod pod_stop;
pub(crate) mod pod_update;
mod process_streams;
