//! The benchmark: the same steps against any CRI socket, each many times.
//!
//! The measured time is the wait of a client. Runtimes that are compared take turns step by step, so that
//! changes of the machine's speed affect all of them.
//!
//! Each step is timed in two ways. *At once*: each request follows the answer to the one before it, as
//! when a node drains. *Apart*: a pause comes before each request, as on a node that is not in a burst.
//! Costs such as RCU grace periods hide in the first and show in the second.

pub mod bars;
pub mod cpu;
pub mod cycles;
pub mod disk;
pub mod memory;
pub mod pulls;
pub mod series;
pub mod standing;
pub mod streams;
pub mod table;
pub mod vanish;

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
    /// Gigabytes through streams.
    pub gigabytes: usize,
}

impl Effort {
    /// Enough for the percentiles to mean something.
    pub const FULL: Self =
        Self { cycles: 60, parallel: 400, execs: 60, standing: 50, pulls: 5, gigabytes: 5 };
    /// Enough to see roughly where the figures are.
    pub const QUICK: Self =
        Self { cycles: 20, parallel: 80, execs: 20, standing: 10, pulls: 0, gigabytes: 3 };
}
