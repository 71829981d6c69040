#!/usr/bin/env bash
# Runs tests inside a virtual machine (software emulation) on what this machine may not have: a kernel of
# Debian, nothing but cgroup v2, systemd, AppArmor. As root. Ends with the machine's status.
#
#   e2e/vm.sh                            the suites of the list below
#   e2e/vm.sh e2e/e2e:exec::,logs::      one suite; behind the colon, parts of the names of its tests
#   e2e/vm.sh sandbox/executor/lib       the unit tests of that crate
#   e2e/vm.sh sandbox/pods@systemd       with that cgroup driver, instead of the suite's own choice
#   e2e/vm.sh e2e/e2e@cgroupfs:cadvisor::
#                                        not in the list, since it runs a kubelet twice: metrics/CADVISOR-V2.md
#
# CRISP_VM_RELEASE=trixie takes that release of Debian (its kernel and its systemd) instead of this machine's.
# CRISP_VM_FOLDER is where its disk is kept, which takes minutes to make.
set -euo pipefail
cd "$(dirname "$0")/.."

top=$PWD
release=${CRISP_VM_RELEASE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
folder=${CRISP_VM_FOLDER:-$top/target/vm}
seconds=${CRISP_VM_SECONDS:-2400}
suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(sandbox/executor/containers sandbox/executor/lib:cgroup:: sandbox/monitor/program sandbox/monitor
  sandbox/pods@systemd
  sandbox/network:builtin::pods_reach,cni::debians,cni_plugins::,dual_stack::pods_reach,firewalls::the_old,flushed::,host_ports::host_ports_lead,sctp::
  runtime-service/containers@cgroupfs runtime-service/containers@systemd:stats::,pod_states::
  e2e/conformance@systemd:resources::,updates::,stats::,users::,security::,namespaces:: e2e/e2e@cgroupfs:security::,limits::,exec::,process::,oci:: e2e/e2e@systemd:limits::,restart::,systemd::,kubelet::a_kubelet_runs,kubelet::a_kubelet_takes)

bash e2e/install.sh qemu-system-x86 mmdebstrap e2fsprogs protobuf-compiler
mkdir -p "$folder"
work=$(mktemp -d "$folder/run-XXXXXX")
trap 'rm -rf "$work"' EXIT

# The disk of the machine's own system: made once for each text of this part of the script, and release.
packages=(apparmor busybox-static ca-certificates containernetworking-plugins curl dbus docker-registry e2fsprogs
  iproute2 iptables kmod linux-image-cloud-amd64 nftables openssl procps systemd systemd-sysv tar util-linux)
system=$folder/$release-$(sed -n '/^packages=/,/^fi$/p' e2e/vm.sh | sha256sum | cut -c1-12)
if [ ! -e "$system.img" ]; then
  echo "making the disk of a virtual machine with Debian $release"
  mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" "$release" "$work/system"
  cp "$work"/system/boot/vmlinuz-* "$system.vmlinuz"
  cp "$work"/system/boot/initrd.img-* "$system.initrd"
  cat > "$work/system/etc/systemd/system/crisp-tests.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'mount -o exec LABEL=tests /mnt && exec bash /mnt/run'
# What tests left running is not waited for.
KillMode=process
ExecStopPost=/bin/sh -c 'sleep 1; exec systemctl poweroff --force --force'
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
TimeoutStartSec=infinity
Delegate=yes
[Install]
WantedBy=multi-user.target
UNIT
  mkdir -p "$work/system/etc/systemd/system/multi-user.target.wants"
  ln -s ../crisp-tests.service "$work/system/etc/systemd/system/multi-user.target.wants/"
  # The packages' own services are not wanted; tests start what they need.
  rm -f "$work"/system/etc/systemd/system/multi-user.target.wants/docker-registry.service
  mkfs.ext4 -q -d "$work/system" "$work/system.img" 3G
  mv "$work/system.img" "$system.img"
  rm -rf "$work/system"
fi

# The disk of the tests: this tree and the binaries, where the tests expect them.
tree=$work/tests$top
mkdir -p "$tree/target/debug/deps" "$tree/target/release"
git ls-files -z | xargs -0 cp --parents -t "$tree"
cargo build --workspace --all-targets
# The features of the whole workspace, as the gate builds it, but only the tests that are wanted.
names=$(for suite in "${suites[@]}"; do suite=${suite%%[:@]*} && echo "--test ${suite##*/}"; done |
  sed 's/--test lib$/--lib/' | sort -u)
cargo test --workspace $names --no-run --message-format=json 2>/dev/null |
  sed -nE 's#.*"manifest_path":"'"$top"'/([^"]*)/Cargo.toml".*"kind":\["(test|lib|bin)"\].*"name":"([^"]*)".*"executable":"([^"]*/deps/[^"]*)".*#\1/\3 \2 \4#p' > "$work/binaries"
cp target/debug/crisp target/debug/crisp-pod "$tree/target/debug/"
if [ -e target/release/crisp ]; then cp target/release/crisp "$tree/target/release/"; fi
case "${suites[*]}" in *cadvisor*)
  for program in containerd containerd-shim-runc-v2 ctr runc; do
    built=$(target/debug/kubernetes "$program") && cp --parents "target/${built##*/target/}" "$tree"
  done ;;
esac
case "${suites[*]}" in *kubelet* | *cadvisor*)
  # Where there is Go; else the test that needs it fails.
  kubelet=$(target/debug/kubernetes kubelet) && cp --parents "target/${kubelet##*/target/}" "$tree" || true ;;
esac
{
  [ -e target/release/crisp ] || echo "export CRISP_BIN=$top/target/debug/crisp"
  echo "export CRISP_TESTS_COMPLETE=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root"
  echo "mkdir -p $(dirname "$top") && mount --bind /mnt$top/.. $(dirname "$top")"
  echo 'echo "kernel $(uname -r), controllers $(cat /sys/fs/cgroup/cgroup.controllers), $(cat /sys/kernel/security/lsm)"; status=0'
  # What fails is run once more.
  cat <<'SUITE'
suite() {
  local run=() log=/run/suite.log
  while [ "$1" != -- ]; do run+=("$1"); shift; done
  shift
  "${run[@]}" --test-threads 2 "$@" 2>&1 | tee $log
  [ "${PIPESTATUS[0]}" -eq 0 ] || bash "$again" $log "${run[@]}" || { status=1; echo "this suite failed"; }
}
SUITE
  echo "again=$top/e2e/again.sh"
  echo "from=\$(sed -n 's/.*crisp[.]from=//p' /proc/cmdline)"
  for number in "${!suites[@]}"; do
    suite=${suites[$number]}
    name=${suite%%:*} filter= driver=
    [ "$name" = "$suite" ] || filter=$(echo "${suite#*:}" | tr , ' ')
    [ "$name" = "${name%@*}" ] || driver="CRISP_TEST_CGROUP_DRIVER=${name#*@}"
    name=${name%@*}
    binary=$(awk -v name="$name" '$1 == name && $2 == "test" {print $3}' "$work/binaries")
    [ "${name##*/}" != lib ] || binary=$(awk -v name="^${name%lib}[^/]*\$" '$1 ~ name && $2 == "lib" {print $3}' "$work/binaries")
    [ -n "$binary" ] || { echo "there is no suite $name; there are: $(awk '$2 == "test" {printf "%s ", $1}' "$work/binaries")" >&2; exit 2; }
    cp --parents "$binary" "$work/tests"
    # A library's tests stay in the mount namespace that they start in, and systemd shares "/".
    echo "if [ $number -ge \${from%% *} ]; then cd $top/${name%/*}; echo '== $suite'; start=\$SECONDS
      suite env $driver unshare --mount --propagation private $binary -- $filter; echo \"== \$((SECONDS - start)) s\"; fi"
  done
  echo 'echo "virtual machine ended with status $status"'
} > "$work/tests/run"
# What a test writes belongs to the machine's own disk, which forgets it.
mkfs.ext4 -q -L tests -d "$work/tests" "$work/tests.img" "$(du -sm "$work/tests" | awk '{print int($1 * 1.3) + 200}')M"

# Runs the suites from the one with this number on.
machine() {
  timeout "$seconds" qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 4096 \
    -display none -no-reboot -nodefaults -serial "file:$work/console" -serial stdio \
    -kernel "$system.vmlinuz" -initrd "$system.initrd" \
    -append "root=/dev/vda rw console=ttyS0 quiet systemd.unified_cgroup_hierarchy=1 apparmor=1 security=apparmor \
watchdog_thresh=30 softlockup_panic=1 panic=-1 crisp.from=$1" \
    -drive "file=$system.img,format=raw,if=virtio,snapshot=on" \
    -drive "file=$work/tests.img,format=raw,if=virtio,snapshot=on" < /dev/null | sed -u 's,\r$,,' | tee "$work/output"
}
has_ended() { grep -q '^virtual machine ended with status ' "$work/output"; }
crash() { grep -nE 'BUG: |Oops|Kernel panic|soft lockup' "$work/console"; }

failed=0
machine 0 || true
if ! has_ended && crash > /dev/null; then
  echo "the kernel of the virtual machine stopped:"
  first=$(crash | head -1 | cut -d: -f1)
  sed -n "$((first > 5 ? first - 5 : 1)),$((first + 120))p" "$work/console"
  # Once: the suite is run again on a new machine, and those behind it.
  last=$(grep -c '^== [^ ]*/' "$work/output" || true)
  ! grep -q '^this suite failed$' "$work/output" || failed=1
  echo "FLAKY: virtual machine: its kernel stopped in ${suites[$((last > 0 ? last - 1 : 0))]}"
  machine "$((last > 0 ? last - 1 : 0))" || true
fi
if ! grep -q '^virtual machine ended with status 0$' "$work/output"; then
  echo "the end of the virtual machine's console:"
  tail -20 "$work/console"
  failed=1
fi
exit "$failed"
