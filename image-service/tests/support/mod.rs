//! The shared parts of the tests of pulls.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

pub mod docker_registry;
pub mod image;
pub mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crisp_image_service::pull::RetryPolicy;
use crisp_image_service::registry::Timeouts;
use crisp_image_service::{Auth, ImageConfig, ImageId, ImageService, PullError, PullOptions, PullRequest};
use tempfile::TempDir;

/// An image service on a folder of its own, with time-outs for impatient people.
pub struct Bench {
    pub images: ImageService,
    pub metrics: crisp_metrics::Metrics,
    pub dir: TempDir,
}

impl Bench {
    pub async fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap()).await
    }

    /// On a folder that something may be mounted in.
    pub async fn at(dir: TempDir) -> Self {
        let metrics = crisp_metrics::Metrics::new("0.0.0").unwrap();
        let timeouts = Timeouts {
            connect: Duration::from_secs(2),
            answer: Duration::from_millis(1500),
            stall: Duration::from_millis(300),
            stall_bytes: 8 << 10,
        };
        let retry = RetryPolicy {
            rounds: 3,
            first_pause: Duration::from_millis(20),
            patience: Duration::from_secs(5),
            slow_bytes: 16 << 10,
        };
        let config = ImageConfig {
            root: dir.path().join("root"),
            registry_config_dir: Some(dir.path().join("certs.d")),
            pull: PullOptions {
                timeouts,
                retry,
                layers_at_once: 4,
                layer_patience: Duration::from_millis(200),
            },
            ..ImageConfig::default()
        };
        let images = ImageService::open(config, &metrics).await.unwrap();
        Self { images, metrics, dir }
    }

    /// Writes `<registry>/hosts.toml`.
    pub fn hosts(&self, registry: &str, text: &str) {
        let folder = self.dir.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
    }

    /// Makes these servers the mirrors of `test.example`, in order; the last is its `server`.
    pub fn endpoints(&self, urls: &[&str]) {
        let (last, mirrors) = urls.split_last().unwrap();
        let mirrors: String = mirrors.iter().map(|url| format!("[host.\"{url}\"]\n")).collect();
        self.hosts("test.example", &format!("server = \"{last}\"\n{mirrors}"));
    }

    pub async fn pull(&self, reference: &str) -> Result<ImageId, Arc<PullError>> {
        self.images.pull(&PullRequest { reference: reference.to_owned(), auth: None, pod: None }, None).await
    }

    pub async fn pull_as(&self, reference: &str, auth: Auth) -> Result<ImageId, Arc<PullError>> {
        self.images
            .pull(&PullRequest { reference: reference.to_owned(), auth: Some(auth), pod: None }, None)
            .await
    }

    /// The content of a file in the topmost layer of an image that has it.
    pub fn read(&self, image: &str, path: &str) -> Option<Vec<u8>> {
        let image = self.images.find(image).unwrap();
        let lease = self.images.lease(&image.diff_ids).unwrap();
        lease.layer_paths().iter().find_map(|layer| std::fs::read(layer.join(path)).ok())
    }

    /// Everything below the root that a failed pull must not leave: folders of half-unpacked layers.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.dir.path().join("root"), &mut found);
        found.retain(|path| path.components().any(|c| c.as_os_str().to_string_lossy().contains("unpacking")));
        found.retain(|path| !path.to_string_lossy().ends_with("unpacking"));
        found
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The store makes images durable in the background; that must not meet the folder's removal.
        let _ = self.images.store().sync();
    }
}

fn walk(dir: &std::path::Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}

pub fn user(name: &str, password: &str) -> Auth {
    Auth { username: name.to_owned(), password: password.into(), ..Auth::default() }
}
