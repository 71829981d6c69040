#!/usr/bin/env bash
# Makes a Debian package of the release build: crisp_VERSION_ARCH.deb in the folder given, or in target/.
#
#   cri-server/package/deb.sh [FOLDER]
#
# CRISP_BIN is a program that is built already.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:-target}
program=${CRISP_BIN:-target/release/crisp}
[ -n "${CRISP_BIN:-}" ] || cargo build --release --locked
version=$(sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -1)
architecture=$(dpkg --print-architecture)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"

install -D -m 755 "$program" "$tree/usr/bin/crisp"
install -D -m 644 cri-server/package/crisp.service "$tree/usr/lib/systemd/system/crisp.service"
install -D -m 644 cri-server/package/config.toml "$tree/etc/crisp/config.toml"
install -d "$tree/etc/crisp/certs.d" "$tree/DEBIAN" "$tree/usr/share/doc/crisp"
install -m 644 README.md "$tree/usr/share/doc/crisp/"
gzip -9 --no-name "$tree/usr/share/doc/crisp/README.md"
"$program" man --folder "$tree/usr/share/man/man1"
chmod 644 "$tree"/usr/share/man/man1/*
gzip -9 --no-name "$tree"/usr/share/man/man1/*
for place in bash:bash-completion/completions/crisp zsh:zsh/vendor-completions/_crisp fish:fish/vendor_completions.d/crisp.fish; do
  "$program" completion "${place%%:*}" | install -D -m 644 /dev/stdin "$tree/usr/share/${place#*:}"
done
# A file of /usr/lib may be known to dpkg by its place in /lib.
owner() { dpkg -S "$1" 2> /dev/null || dpkg -S "/usr$1" 2> /dev/null || true; }
# The libraries that the program is linked with, at least of the versions here.
libraries=$(ldd "$program" | sed -nE 's/.*=> (\/[^ ]+) .*/\1/p' | while read -r library; do owner "$library"; done |
  cut -d: -f1 | sort -u | while read -r package; do
    echo "$package (>= $(dpkg-query -W -f '${Version}\n' "$package" | head -1 | sed -E 's/-[^-]*$//'))"
  done | paste -sd, | sed 's/,/, /g')
[ -n "$libraries" ] || { echo "the libraries of $program belong to no package" >&2; exit 1; }
cat > "$tree/DEBIAN/control" <<CONTROL
Package: crisp
Version: $version
Architecture: $architecture
Maintainer: The Crisp authors <crisp@localhost>
Depends: $libraries
Suggests: containernetworking-plugins
Section: admin
Priority: optional
Description: Kubernetes container runtime
 Runs the pods of a kubelet, or Kubernetes manifests without one. Needs no
 containerd, no runc and no pause image.
CONTROL
echo /etc/crisp/config.toml > "$tree/DEBIAN/conffiles"
# Pods go on over an upgrade: the server is restarted, not stopped with them.
cat > "$tree/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  if systemctl is-active --quiet crisp.service; then systemctl restart crisp.service; fi
fi
POSTINST
cat > "$tree/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then systemctl disable --now crisp.service || true; fi
PRERM
chmod 755 "$tree/DEBIAN/postinst" "$tree/DEBIAN/prerm"
mkdir -p "$folder"
package=$folder/crisp_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$tree" "$package" > /dev/null
echo "$package"
