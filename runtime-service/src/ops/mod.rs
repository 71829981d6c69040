//! What is done to containers, one operation per file: stages with deadlines, each failure undone.

pub mod create;
pub mod exec;
mod image_view;
pub mod log;
mod placement;
pub mod remove;
pub mod start;
pub mod stop;
pub mod update;
pub mod volume;
