//! Crisp as its users see it. Needs root, docker-registry, busybox-static and the release build.

mod kubelet;
mod pods;
