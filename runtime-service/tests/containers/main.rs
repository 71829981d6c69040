//! The whole service without a socket: real pods, real monitors, an image in a real store.
//!
//! Needs root, busybox (static) and the built `crisp-pod` beside the tests (`cargo build -p
//! crisp-monitor`); skips with the reason without them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

mod attach;
mod cdi;
mod events;
mod exec;
mod exec_leftover;
mod exec_streams;
mod files;
mod hooks;
mod image_volumes;
mod layers;
mod lifecycle;
mod pod_states;
mod port_forward;
mod port_forward_websocket;
mod prepare;
mod restart;
mod security;
mod stats;
mod streams;
mod user_namespaces;
