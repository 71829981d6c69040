#!/usr/bin/env bash
# A Kubernetes cluster of two nodes on this machine, tested and taken away again; Debian, as root, with Go. Nodes have
# namespaces of their own, and a network that the host does not see. Building the programs takes minutes, once.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin

bash e2e/install.sh gcc libc6-dev busybox-static containernetworking-plugins curl docker-registry etcd-server iproute2 \
  iptables nftables openssl protobuf-compiler util-linux
[ -n "${CRISP_BIN:-}" ] || cargo build --release
cargo build --workspace --bin cluster
exec target/debug/cluster
