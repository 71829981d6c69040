//! The benchmark: the same steps against any CRI socket, each many times.
//!
//! What is timed is what a client waits for. Runtimes given together take turns step by step, so
//! that a machine whose speed drifts is the same machine for all of them.

pub mod memory;
pub mod pulls;
pub mod steps;
pub mod table;

use std::path::PathBuf;

/// A runtime under test.
#[derive(Debug, Clone)]
pub struct Target {
    /// For the table.
    pub name: String,
    pub socket: PathBuf,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Pods started one after another.
    pub cycles: usize,
    /// Pods started with eight at a time.
    pub parallel: usize,
    pub execs: usize,
    /// Pods that stand at once for lists and memory.
    pub standing: usize,
    pub pulls: usize,
}

impl Effort {
    /// Enough for the percentiles to mean something.
    pub const FULL: Self = Self { cycles: 60, parallel: 200, execs: 60, standing: 50, pulls: 5 };
    /// Enough to see that a budget is kept.
    pub const QUICK: Self = Self { cycles: 20, parallel: 40, execs: 20, standing: 10, pulls: 1 };
}
