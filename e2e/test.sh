#!/usr/bin/env bash
# All tests of Crisp, on a Debian machine, as root: installs what they need, builds, runs them.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD

bash e2e/install.sh apparmor ca-certificates gcc libc6-dev busybox-static containernetworking-plugins curl dbus docker-registry \
  e2fsprogs etcd-server firewalld iproute2 iptables libseccomp-dev nftables openssl pkg-config prometheus protobuf-compiler tar util-linux

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
# With fault points, which a release build has not. With the tests: so all of it is built once.
cargo build --workspace --all-targets
# What some tests need of Kubernetes and containerd: minutes, at first. Without Go they fail below: no Debian has it in the version
# that Kubernetes needs, so it is not installed here.
if PATH=$PATH:/usr/local/go/bin command -v go > /dev/null; then
  # Tests that need them say what is wrong when this fails.
  target/debug/kubernetes kubelet kubectl kube-apiserver containerd containerd-shim-runc-v2 ctr runc || true
fi
# A test that lacks a program or package from here on fails instead of being skipped.
export CRISP_TESTS_COMPLETE=1
status=0
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
# Without --no-fail-fast one failing crate would hide the others.
cargo test --workspace --no-fail-fast -- --test-threads 2 2>&1 | tee "$logs/all" || status=$?
if [ "$status" -ne 0 ]; then
  # One file for each binary: its path, then what it printed; cargo names its package behind that when it failed.
  awk -v logs="$logs" '
    / Running .* \(target\/.*\)$/ { file = sprintf("%s/binary-%03d", logs, ++binaries); print substr($NF, 2, length($NF) - 2) > file; next }
    / Doc-tests / { file = sprintf("%s/binary-%03d", logs, ++binaries); print "doc-tests" > file; next }
    /^error: (test|doctest) failed, to rerun pass `-p / { package = $0; sub(/.*`-p /, "", package); sub(/[ `].*/, "", package); print file, package > (logs "/failed"); next }
    file { print > file }' "$logs/all"
  all=$(sed -nE 's/^error: ([0-9]+) targets? failed:$/\1/p' "$logs/all")
  # A build that failed names no targets.
  if [ -n "$all" ] && [ "$(wc -l < "$logs/failed")" -eq "$all" ]; then
    status=0
    while read -r file package; do
      folder=$(cargo pkgid -p "$package" | sed 's,.*file://,,; s,#.*,,')
      (cd "$folder" && bash "$top/e2e/again.sh" "$file" "$top/$(head -1 "$file")") < /dev/null || status=1
    done < "$logs/failed"
  fi
fi

# Processes that were killed take a moment to be gone.
for _ in 1 2 3 4 5; do
  after=$(machine | sort)
  [ "$before" = "$after" ] && break
  sleep 1
done
if [ "$before" != "$after" ]; then
  diff <(echo "$before") <(echo "$after") | sed -n 's/^>/LEFT BEHIND BY THE TESTS:/p; s/^</TAKEN FROM THE MACHINE:/p'
  exit 1
fi
exit "$status"
