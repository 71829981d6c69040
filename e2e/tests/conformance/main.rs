//! One test for each behaviour that the CRI and Kubernetes promise of a runtime, named after the promise.
//!
//! Each file below is a theme. Its promises are listed at its top, each with the RPCs and fields that it is
//! about, and the function of the same name tests the promise. The table in the documentation of
//! crisp-runtime-service is generated from these lists.
//!
//! By default this starts `crisp serve` (one for all tests that run at the same time). For another runtime:
//!
//! ```text
//! export CRISP_CONFORMANCE_ENDPOINT=unix:///run/containerd/containerd.sock
//! export CRISP_CONFORMANCE_REGISTRY=127.0.0.1:5005
//! cargo test -p crisp-e2e --test conformance -- --test-threads 2
//! ```
//!
//! The images come from a registry that the tests start at that address. It uses plain HTTP, which containerd
//! accepts on 127.0.0.1 by default. Other runtimes with containerd's form of configuration need
//! `certs.d/127.0.0.1:5005/hosts.toml` with one line: `server = "http://127.0.0.1:5005"`. A runtime that
//! makes its sandboxes from an image can use `127.0.0.1:5005/pause:1`. containerd:
//!
//! ```toml
//! [plugins."io.containerd.cri.v1.images".pinned_images]
//!   sandbox = "127.0.0.1:5005/pause:1"
//! ```
//!
//! The declaration of a promise names the runtimes that are known to break it. With such a runtime the test
//! passes only as long as the promise is broken.

#[macro_use]
mod promise;

mod containers;
mod cri;
mod events;
mod exec;
mod images;
mod lifecycle;
mod listing;
mod logs;
mod mounts;
mod namespaces;
mod network;
mod newer;
mod node;
mod pods;
mod processes;
mod resources;
mod runtime;
mod security;
mod stats;
mod streams;
mod table;
mod updates;
mod users;
