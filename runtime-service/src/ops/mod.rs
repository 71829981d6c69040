//! What is done to containers, one operation per file: stages with deadlines, each failure undone.

pub mod create;
pub mod exec;
pub mod log;
pub mod remove;
pub mod start;
pub mod stop;
pub mod update;
pub mod volume;
