//! ImageFsInfo: the disk usage of images, from the layers' records.

use crisp_proto::runtime::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoResponse, UInt64Value};

use crate::store::Store;

/// kubelet requires an entry for containers too, and only compares its mount point with that of the images:
/// equal means that there is one file system to watch. The usage of containers is in their own stats, so the
/// numbers are left out here.
pub(super) fn response(store: &Store) -> ImageFsInfoResponse {
    let usage = store.usage();
    let fs_id = Some(FilesystemIdentifier { mountpoint: store.layers_path().to_string_lossy().into_owned() });
    let timestamp = crisp_operation::clock::now();
    let images = FilesystemUsage {
        timestamp,
        fs_id: fs_id.clone(),
        used_bytes: Some(UInt64Value { value: usage.bytes }),
        inodes_used: Some(UInt64Value { value: usage.inodes }),
    };
    let containers = FilesystemUsage { timestamp, fs_id, used_bytes: None, inodes_used: None };
    ImageFsInfoResponse { image_filesystems: vec![images], container_filesystems: vec![containers] }
}
