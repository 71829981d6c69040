#!/usr/bin/env bash
# Crisp's main job on a fresh Debian machine, as root: a pod of two containers, of which the second
# fetches a page from the first over 127.0.0.1. Nothing comes from the internet but Debian packages
# and crates: the image is put together here and pulled through a mirror on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

bash e2e/install.sh gcc libc6-dev busybox-static docker-registry curl
command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.90 or later (https://rustup.rs)" >&2; exit 1; }
cargo build --release

work=$(mktemp -d /tmp/crisp-demo-XXXXXX)
cleanup() {
  [ -z "${registry:-}" ] || kill "$registry" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

# An image of one layer: busybox and a shell's worth of links.
mkdir -p "$work/image/bin" "$work/image/tmp"
cp /bin/busybox "$work/image/bin/"
for applet in sh cat echo httpd mkdir seq sleep wget; do ln -s busybox "$work/image/bin/$applet"; done
tar -C "$work/image" --owner=0 --group=0 --sort=name -cf "$work/layer.tar" .
gzip -k "$work/layer.tar"
digest() { sha256sum "$1" | cut -d' ' -f1; }
size() { stat -c %s "$1"; }
cat > "$work/config.json" <<EOF
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$(digest "$work/layer.tar")"]}}
EOF
cat > "$work/manifest.json" <<EOF
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:$(digest "$work/config.json")", "size": $(size "$work/config.json")},
 "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:$(digest "$work/layer.tar.gz")", "size": $(size "$work/layer.tar.gz")}]}
EOF

# The mirror.
port=$((20000 + RANDOM % 10000))
mirror=http://127.0.0.1:$port
printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:%s"}\n' \
  "$work/registry" "$port" > "$work/registry.yml"
docker-registry serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
registry=$!
for _ in $(seq 100); do curl -fs "$mirror/v2/" >/dev/null && break; sleep 0.1; done
push_blob() {
  local location
  location=$(curl -fsS -X POST -D - -o /dev/null "$mirror/v2/library/demo/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$1" "$location&digest=sha256:$(digest "$1")" >/dev/null
}
push_blob "$work/layer.tar.gz"
push_blob "$work/config.json"
curl -fsS -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$work/manifest.json" \
  "$mirror/v2/library/demo/manifests/latest" >/dev/null

# docker.io comes from the mirror.
mkdir -p "$work/certs.d/docker.io"
printf '[host."%s"]\n  capabilities = ["pull", "resolve"]\n' "$mirror" > "$work/certs.d/docker.io/hosts.toml"

cat > "$work/pod.yaml" <<'EOF'
apiVersion: v1
kind: Pod
metadata:
  name: demo
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 3
  volumes:
  - name: done
    emptyDir: {}
  containers:
  - name: server
    image: demo
    command:
    - sh
    - -c
    - |
      mkdir /www && echo "Hello from the first container" > /www/index.html
      echo "serving on 127.0.0.1:8080"
      httpd -p 127.0.0.1:8080 -h /www
      until [ -e /done/fetched ]; do sleep 0.1; done
    volumeMounts:
    - {name: done, mountPath: /done}
  - name: client
    image: demo
    command:
    - sh
    - -c
    - |
      for i in $(seq 100); do wget -q -O /done/page http://127.0.0.1:8080/ && break; sleep 0.1; done
      echo "fetched over 127.0.0.1: $(cat /done/page)"
      echo > /done/fetched
    volumeMounts:
    - {name: done, mountPath: /done}
EOF
target/release/crisp run "$work/pod.yaml" --root "$work/root" --state "$work/state" --cni-conf-dir "$work/none" \
  --registry-config-dir "$work/certs.d" --bridge-name crispdemo0
