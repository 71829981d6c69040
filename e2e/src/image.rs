//! Builds images: layers as tar archives, a config, a manifest.

use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The compression of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
    None,
}

/// A layer's tar archive that is being written.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
    pub compression: Compression,
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    #[must_use]
    pub fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), compression: Compression::Gzip }
    }

    /// A layer with exactly these bytes, which need not be an archive.
    #[must_use]
    pub fn raw(bytes: Vec<u8>) -> Self {
        Self { tar: tar::Builder::new(bytes), compression: Compression::Gzip }
    }

    #[must_use]
    pub fn compressed(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    fn entry(mut self, kind: tar::EntryType, path: &str, mode: u32, link: Option<&str>, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_mtime(1_600_000_000);
        // The raw name field, so that hostile names can be written too.
        let name = &mut header.as_old_mut().name;
        let bytes = path.as_bytes();
        assert!(bytes.len() <= name.len(), "test names are short");
        name[..bytes.len()].copy_from_slice(bytes);
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        self.tar.append(&header, data).expect("writing to memory");
        self
    }

    #[must_use]
    pub fn file(self, path: &str, mode: u32, data: &[u8]) -> Self {
        self.entry(tar::EntryType::Regular, path, mode, None, data)
    }

    #[must_use]
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(tar::EntryType::Directory, path, mode, None, &[])
    }

    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, path, 0o777, Some(target), &[])
    }

    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Link, path, 0o644, Some(target), &[])
    }

    fn finish(self) -> (Vec<u8>, Compression) {
        let compression = self.compression;
        (self.tar.into_inner().expect("writing to memory"), compression)
    }
}

/// Bytes with their digest and media type, as a registry stores them.
#[derive(Debug, Clone)]
pub struct Blob {
    pub media_type: &'static str,
    pub digest: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    #[must_use]
    pub fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&bytes), bytes }
    }

    #[must_use]
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// `sha256:...` of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// An image: layers from the bottom up, and its config.
#[derive(Default)]
pub struct Image {
    layers: Vec<Layer>,
    config: serde_json::Map<String, Value>,
    platform: Option<(String, String)>,
    docker: bool,
}

impl Image {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Debian's static busybox with its applets as links: sh, nc, httpd and the rest.
    #[must_use]
    pub fn busybox() -> Self {
        let program = std::fs::read("/bin/busybox").expect("package busybox-static");
        let mut layer = Layer::new().folder("bin/", 0o755).file("bin/busybox", 0o755, &program);
        for applet in APPLETS {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        let files = layer
            .folder("etc/", 0o755)
            .folder("tmp/", 0o1777)
            .folder("root/", 0o700)
            .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n")
            .file("etc/group", 0o644, b"root:x:0:\napp:x:1001:\nextra:x:2000:app\n");
        Self::new().layer(files).config("Env", json!(["PATH=/bin"])).config("Cmd", json!(["sh"]))
    }

    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sets a key of the image's `config`: Entrypoint, Cmd, Env, User, WorkingDir, StopSignal, ...
    #[must_use]
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.into(), value);
        self
    }

    /// Declares that the image is for another machine.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.platform = Some((os.into(), architecture.into()));
        self
    }

    /// A Docker schema 2 manifest instead of an OCI one.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// Everything to push: blobs, then the manifest.
    #[must_use]
    pub fn build(self) -> Built {
        let (os, architecture) =
            self.platform.clone().unwrap_or(("linux".into(), host_architecture().into()));
        let mut blobs = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in self.layers {
            let (tar, compression) = layer.finish();
            diff_ids.push(digest(&tar));
            blobs.push(Blob::new(layer_type(compression, self.docker), compress(&tar, compression)));
        }
        let config = json!({
            "architecture": architecture, "os": os, "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "created": "2024-01-01T00:00:00Z",
        });
        let (config_type, manifest_type) = if self.docker { DOCKER } else { OCI };
        let config = Blob::new(config_type, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "config": config.descriptor(),
            "layers": blobs.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let id = config.digest.clone();
        blobs.push(config);
        Built {
            id,
            blobs,
            manifest: Blob::new(manifest_type, manifest.to_string().into_bytes()),
            os,
            architecture,
        }
    }
}

/// An image ready to be pushed. Its parts can be tampered with first.
#[derive(Debug, Clone)]
pub struct Built {
    /// The config's digest: the image id.
    pub id: String,
    pub blobs: Vec<Blob>,
    pub manifest: Blob,
    pub os: String,
    pub architecture: String,
}

const OCI: (&str, &str) =
    ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.manifest.v1+json");
const DOCKER: (&str, &str) = (
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
);
const APPLETS: [&str; 45] = [
    "sh", "cat", "echo", "sleep", "true", "false", "ls", "id", "env", "nc", "httpd", "wget", "ps", "kill",
    "mount", "touch", "mkdir", "rm", "dd", "yes", "head", "tail", "grep", "hostname", "ip", "ping", "seq",
    "stat", "readlink", "chmod", "test", "tr", "wc", "sync", "printf", "df", "date", "nslookup", "trap",
    "mknod", "mv", "ln", "stty", "tar", "sort",
];

fn layer_type(compression: Compression, docker: bool) -> &'static str {
    match (compression, docker) {
        (Compression::Gzip, false) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (Compression::Zstd, _) => "application/vnd.oci.image.layer.v1.tar+zstd",
        (Compression::None, false) => "application/vnd.oci.image.layer.v1.tar",
        (Compression::Gzip, true) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (Compression::None, true) => "application/vnd.docker.image.rootfs.diff.tar",
    }
}

fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Zstd => zstd::encode_all(bytes, 3).expect("compressing in memory"),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).expect("compressing in memory");
            encoder.finish().expect("compressing in memory")
        }
    }
}

/// The name that images use for this machine.
#[must_use]
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
