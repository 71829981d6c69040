#!/usr/bin/env bash
# The benchmark with the design's bars, on a Debian machine that does nothing else, as root. Fails when a bar
# is missed. Arguments go to the benchmark: `--quick`, or a runtime to compare with, `NAME=SOCKET`.
# Sessions whose clients vanish have bars of their own.
# It is run by hand before a change of speed is called done: `.ci/run` prints a few figures and fails on none.
set -euo pipefail
cd "$(dirname "$0")/.."

bash e2e/install.sh containernetworking-plugins gcc libc6-dev busybox-static docker-registry e2fsprogs iproute2 iptables mount protobuf-compiler
cargo build --release
cargo run --release -p crisp-e2e --bin bench -- --check crisp "$@"
cargo run --release -p crisp-e2e --bin bench -- --only network --check crisp
cargo run --release -p crisp-e2e --bin bench -- --vanish 10000 crisp
