//! Filled in below.
pub mod network;
