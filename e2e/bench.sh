#!/usr/bin/env bash
# The benchmark with the design's bars, on a Debian machine that does nothing else, as root. Fails when a bar
# is missed. Arguments go to the benchmark: `--quick`, or a runtime to compare with, `NAME=SOCKET`.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
for package in gcc libc6-dev busybox-static docker-registry e2fsprogs mount protobuf-compiler; do
  dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi
cargo build --release
cargo run --release -p crisp-e2e --bin bench -- --check crisp "$@"
