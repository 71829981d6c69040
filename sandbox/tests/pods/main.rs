//! Pods with real monitors, in temporary folders.

mod faults;
mod lab;
mod monitors;
mod recovery;
