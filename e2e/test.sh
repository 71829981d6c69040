#!/usr/bin/env bash
# All tests of Crisp, on a Debian machine, as root: installs what they need, builds, runs them.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(gcc libc6-dev busybox-static containernetworking-plugins curl docker-registry iproute2 iptables nftables
  prometheus protobuf-compiler)
missing=()
for package in "${packages[@]}"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -q
  # The packages' own services are not wanted: the tests start what they need themselves.
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" || { rm -f /usr/sbin/policy-rc.d; exit 1; }
  rm -f /usr/sbin/policy-rc.d
fi

cargo build --release
# One target after the other is cargo's way; --no-fail-fast so that one failure does not hide others.
cargo test --workspace --no-fail-fast -- --test-threads 2
