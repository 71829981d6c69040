//! Debian's docker-registry on a free port of 127.0.0.1, and pushing to it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::image::{Blob, Built};
use crate::{Result, http};

/// A running registry with its own storage.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
}

/// A port that is free at present.
///
/// # Errors
/// When no port is free.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Registry {
    /// Starts a registry that keeps its content in `folder`.
    ///
    /// # Errors
    /// The program is missing or does not answer within ten seconds.
    pub fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, &[])
    }

    /// Like [`Registry::start`], with more settings in the environment (REGISTRY_...).
    ///
    /// # Errors
    /// The program is missing or does not answer within ten seconds.
    pub fn start_with(folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_at(&format!("127.0.0.1:{}", free_port()?), folder, settings)
    }

    /// Like [`Registry::start`], but only for the users of an htpasswd file.
    ///
    /// # Errors
    /// The program is missing or does not answer within ten seconds.
    pub fn start_private(folder: &Path, htpasswd: &str) -> Result<Self> {
        let users = folder.join("users");
        std::fs::create_dir_all(folder)?;
        std::fs::write(&users, htpasswd)?;
        let users = users.display().to_string();
        let settings = [
            ("REGISTRY_AUTH", "htpasswd"),
            ("REGISTRY_AUTH_HTPASSWD_REALM", "r"),
            ("REGISTRY_AUTH_HTPASSWD_PATH", users.as_str()),
        ];
        Self::start_with(folder, &settings)
    }

    /// Like [`Registry::start_with`], at a given address.
    ///
    /// # Errors
    /// The program is missing or does not answer within ten seconds.
    pub fn start_at(host: &str, folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let program = crisp_skip::program("docker-registry").ok_or("docker-registry is not installed")?;
        let host = host.to_owned();
        let config = folder.join("registry.yml");
        std::fs::create_dir_all(folder)?;
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: \"{host}\"}}\n",
                folder.join("data").display()
            ),
        )?;
        let log = std::fs::File::create(folder.join("registry.log"))?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&config).envs(settings.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let registry = Self { child, host };
        registry.wait_until_up()?;
        Ok(registry)
    }

    fn wait_until_up(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(&self.host).is_err() {
            if Instant::now() > deadline {
                return Err(format!("docker-registry on {} does not answer", self.host).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Pushes an image and returns the reference to pull it by: `HOST/NAME:TAG`.
    ///
    /// # Errors
    /// The error of the registry.
    pub fn push(&self, name: &str, tag: &str, image: &Built) -> Result<String> {
        for blob in &image.blobs {
            self.push_blob(name, blob)?;
        }
        self.push_manifest(name, tag, &image.manifest)?;
        Ok(format!("{}/{name}:{tag}", self.host))
    }

    /// Pushes an index of images that were pushed under the same name (with any tag).
    ///
    /// # Errors
    /// The error of the registry.
    pub fn push_index(&self, name: &str, tag: &str, images: &[Built]) -> Result<String> {
        let manifests: Vec<_> = images
            .iter()
            .map(|image| {
                let mut descriptor = image.manifest.descriptor();
                descriptor["platform"] =
                    serde_json::json!({"os": image.os, "architecture": image.architecture});
                descriptor
            })
            .collect();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        self.push_manifest(name, tag, &Blob::new(media_type, index.to_string().into_bytes()))?;
        Ok(format!("{}/{name}:{tag}", self.host))
    }

    /// Pushes one blob.
    ///
    /// # Errors
    /// The error of the registry.
    pub fn push_blob(&self, name: &str, blob: &Blob) -> Result<()> {
        let start = http::send(&self.host, "POST", &format!("/v2/{name}/blobs/uploads/"), &[], &[])?;
        let location = start.header("location").ok_or_else(|| format!("no upload location: {start:?}"))?;
        let path = location.strip_prefix(&format!("http://{}", self.host)).unwrap_or(location);
        let path = format!("{path}{}digest={}", if path.contains('?') { '&' } else { '?' }, blob.digest);
        let octets = [("Content-Type", "application/octet-stream")];
        expect(201, &http::send(&self.host, "PUT", &path, &octets, &blob.bytes)?)
    }

    /// Pushes a manifest or index under a tag (or digest).
    ///
    /// # Errors
    /// The error of the registry.
    pub fn push_manifest(&self, name: &str, tag: &str, manifest: &Blob) -> Result<()> {
        let path = format!("/v2/{name}/manifests/{tag}");
        expect(
            201,
            &http::send(&self.host, "PUT", &path, &[("Content-Type", manifest.media_type)], &manifest.bytes)?,
        )
    }
}

fn expect(status: u16, answer: &http::Response) -> Result<()> {
    if answer.status == status {
        return Ok(());
    }
    Err(format!("registry answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body)).into())
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
