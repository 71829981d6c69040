#!/usr/bin/env bash
# Runs libFuzzer for a while on each target: `e2e/fuzz.sh [SECONDS [TARGET ...]]`. What it finds interesting is
# kept in target/fuzz; an input that broke a target goes into e2e/fuzz/corpus with the mend.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
[ $# -gt 0 ] && shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls e2e/fuzz/corpus)
command -v g++ >/dev/null || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends g++; }

# The compiler's own coverage counters, which stable Rust offers through LLVM's options. With --target,
# build scripts and macros go without.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks"
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0
cargo build -q --locked -p crisp-fuzz --features engine --bin fuzz --target "$host" --target-dir target/fuzz/build

# At most 1 GB, 1 MB of input and 10 s for one: more is a defect too.
run() {
  local target=$1 found=target/fuzz/$1
  mkdir -p "$found"
  CRISP_FUZZ_TARGET=$target "target/fuzz/build/$host/debug/fuzz" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=1024 -max_len=1048576 -artifact_prefix=target/fuzz/crashes/"$target"- -print_final_stats=1 \
    "$found" "e2e/fuzz/corpus/$target" >"$found.log" 2>&1
}

mkdir -p target/fuzz/crashes
# As many at once as there are cores.
for target in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  rm -f "target/fuzz/$target.ok"
  { run "$target" && touch "target/fuzz/$target.ok"; } &
done
wait

passed=0 failed=0
for target in "${targets[@]}"; do
  log=target/fuzz/$target.log
  if [ -e "target/fuzz/$target.ok" ]; then
    runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
    echo "test fuzz $target ... ok ($runs inputs)"
    passed=$((passed + 1))
  else
    echo "test fuzz $target ... FAILED"
    tail -40 "$log"
    failed=$((failed + 1))
  fi
done
[ "$failed" -eq 0 ] && word=ok || word=FAILED
echo "test result: $word. $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
[ "$failed" -eq 0 ]
