#!/usr/bin/env bash
# All tests of Crisp, on a Debian machine, as root: installs what they need, builds, runs them.
set -euo pipefail
cd "$(dirname "$0")/.."

bash e2e/install.sh apparmor gcc libc6-dev busybox-static containernetworking-plugins curl docker-registry e2fsprogs \
  iproute2 iptables nftables openssl prometheus protobuf-compiler tar util-linux

# What a run of the tests must leave as it was.
machine() {
  pgrep -fa '^crisp-pod' || true
  find /sys/fs/cgroup -type d -path '*/crisp*' 2>/dev/null || true
  ip -o link | cut -d: -f2
  nft list tables
  ls /run/netns 2>/dev/null || true
  grep -i crisp /proc/self/mountinfo || true
}
before=$(machine | sort)

cargo build --release
# With fault points, which a release build has not.
cargo build
# A test that lacks a program or package from here on fails instead of being skipped.
export CRISP_TESTS_COMPLETE=1
status=0
# Without --no-fail-fast one failing crate would hide the others.
cargo test --workspace --no-fail-fast -- --test-threads 2 || status=$?

# Processes that were killed take a moment to be gone.
for _ in 1 2 3 4 5; do
  after=$(machine | sort)
  [ "$before" = "$after" ] && break
  sleep 1
done
if [ "$before" != "$after" ]; then
  echo "left behind by the tests (+) or taken from the machine (-):"
  diff <(echo "$before") <(echo "$after") | sed -n 's/^>/+/p; s/^</-/p'
  exit 1
fi
exit "$status"
