//! A disk that becomes full during a pull.

use crisp_image_service::ErrorKind;

use crate::support::Bench;
use crate::support::server::Server;
use crate::{big_blob, fails, two_layers};

/// A file system of a few megabytes, gone when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf) -> Option<Self> {
        crisp_skip::needs!("mount", "umount");
        std::fs::create_dir_all(&at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m,mode=700", "crisp-test"])
            .arg(&at)
            .status();
        assert!(mounted.unwrap().success());
        Some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_ends_the_pull_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path().join("root")) else { return };
    let image = two_layers();
    let server = Server::honest(&[("v1", &image)]).await;
    let bench = Bench::at(dir).await;
    bench.endpoints(&[&server.url()]);
    let layer = format!("layer {}", image.layers[0].digest);
    fails(&bench, ErrorKind::ResourceExhausted, &[&layer, "stay free", "remove unused images"]).await;
    assert_eq!(server.asked_for(&big_blob(&image)).len(), 1, "asking again frees no space");
    // Before its mount point is removed with the bench.
    drop(disk);
}
