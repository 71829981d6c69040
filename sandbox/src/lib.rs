//! Filled in below.
pub mod link;
pub mod network;
pub mod spawn;
