//! What is done to containers, one operation per file: stages with deadlines, each failure undone.

pub mod container_create;
pub mod container_remove;
pub mod container_start;
pub mod container_stop;
pub mod container_update;
pub mod exec_sync;
mod image_contents;
mod image_volume;
pub mod log_reopen;
mod pid_namespace;
