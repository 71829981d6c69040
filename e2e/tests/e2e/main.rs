//! Crisp as its users see it. Needs root, docker-registry, busybox-static and the release build.

mod budgets;
mod check;
mod cli;
mod cni;
mod containers;
mod copy;
mod exec;
mod faults;
mod images;
mod kubelet;
mod layers;
mod limits;
mod logs;
mod metrics;
mod mirrors;
mod network;
mod pods;
mod process;
mod refusals;
mod restart;
mod run;
mod security;
mod streams;
mod systemd;
