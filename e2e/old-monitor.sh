#!/usr/bin/env bash
# Pods of earlier releases under the present server, on a Debian machine, as root: builds the `crisp` of one commit for
# each protocol of monitors that the present server still talks to (some minutes each, at the first run; they stay in
# target/earlier), starts a pod with each, and then the server of this tree on the same folders.
set -euo pipefail
cd "$(dirname "$0")/.."

# The last commits of protocol 1, of protocol 2 (of those in the history), and of protocol 3.
commits=(18f6d27^ 335df34 89cfb69^)

bash e2e/install.sh gcc libc6-dev busybox-static docker-registry protobuf-compiler
export CARGO_INCREMENTAL=0
earlier=
for commit in "${commits[@]}"; do
  commit=$(git rev-parse "$commit^{commit}")
  crisp=$PWD/target/earlier/$commit/crisp
  if [ ! -x "$crisp" ]; then
    tree=$(mktemp -d)
    trap 'git worktree remove --force "$tree"' EXIT
    git worktree add --detach "$tree" "$commit"
    # The folder is shared: what both need of other crates is built once.
    (cd "$tree" && CARGO_TARGET_DIR=$OLDPWD/target/earlier/build cargo build --locked --workspace --bin crisp)
    mkdir -p "${crisp%/*}"
    cp target/earlier/build/debug/crisp "$crisp"
    git worktree remove --force "$tree"
    trap - EXIT
  fi
  earlier=$earlier${earlier:+:}$crisp
done
rm -rf target/earlier/build
[ -n "${CRISP_BIN:-}" ] || cargo build --release
CRISP_EARLIER_SERVERS=$earlier cargo test --locked --workspace --test e2e -- old_monitor --ignored --nocapture
