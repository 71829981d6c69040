//! The benchmark: the same steps against any CRI socket, each many times.
//!
//! The measured time is how long a client waits. Runtimes that are compared take turns step by step, so that
//! changes of the machine's speed affect all of them.
//!
//! Each step is timed in two ways. *At once*: each request follows the response to the one before it, as when
//! a node drains. *Apart*: a pause comes before each request, as on a node without a burst. Costs such as RCU
//! grace periods are hidden in the first and visible in the second.

pub mod bars;
pub mod busy;
pub mod cpu;
pub mod cycles;
pub mod disk;
pub mod memory;
pub mod plugins;
pub mod pulls;
pub mod sandboxes;
pub mod series;
pub mod standing;
pub mod streams;
pub mod table;
pub mod traffic;
pub mod vanish;

use std::path::PathBuf;

/// A runtime under test.
#[derive(Debug, Clone)]
pub struct Target {
    /// The name in the table.
    pub name: String,
    pub socket: PathBuf,
    /// `HOST:PORT` of its page of the pods' metrics, at `/metrics/cadvisor`.
    pub metrics: Option<String>,
}

/// The number of repetitions.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Pods started one after another.
    pub cycles: usize,
    /// Pods started with eight at a time.
    pub parallel: usize,
    pub execs: usize,
    /// Pods that run at the same time for lists and memory.
    pub standing: usize,
    pub pulls: usize,
    /// Containers that exist while others are created.
    pub created: usize,
    /// Pods without containers at the same time.
    pub sandboxes: usize,
    /// Pods without containers that are made and removed with eight at a time.
    pub churn: usize,
    /// Gigabytes to send through streams.
    pub gigabytes: usize,
}

impl Effort {
    /// Enough for meaningful percentiles.
    pub const FULL: Self = Self {
        cycles: 60,
        parallel: 400,
        execs: 60,
        standing: 50,
        pulls: 5,
        created: 500,
        sandboxes: 500,
        churn: 2000,
        gigabytes: 5,
    };
    /// Enough for rough results.
    pub const QUICK: Self = Self {
        cycles: 20,
        parallel: 80,
        execs: 20,
        standing: 10,
        pulls: 0,
        created: 500,
        sandboxes: 50,
        churn: 200,
        gigabytes: 3,
    };
}
