//! Bytes and requests to disks, and the disk usage of the container.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crisp_executor::cgroup::IoStats;

use super::family::Kind::{Counter, Gauge};
use super::family::{Family, Samples, Value};
use crate::stats::writable::Usage;

const READ_BYTES: Family = Family {
    name: "container_fs_reads_bytes_total",
    help: "Bytes read from the disk.",
    kind: Counter,
    labels: &["device"],
};
const WRITE_BYTES: Family = Family {
    name: "container_fs_writes_bytes_total",
    help: "Bytes written to the disk.",
    kind: Counter,
    labels: &["device"],
};
const READS: Family = Family {
    name: "container_fs_reads_total",
    help: "Read requests to the disk.",
    kind: Counter,
    labels: &["device"],
};
const WRITES: Family = Family {
    name: "container_fs_writes_total",
    help: "Write requests to the disk.",
    kind: Counter,
    labels: &["device"],
};
const DEVICE_BYTES: Family = Family {
    name: "container_blkio_device_usage_total",
    help: "Bytes by device and operation.",
    kind: Counter,
    labels: &["device", "major", "minor", "operation"],
};
const USAGE: Family = Family {
    name: "container_fs_usage_bytes",
    help: "Bytes in the writable layer.",
    kind: Gauge,
    labels: &["device"],
};
const LIMIT: Family = Family {
    name: "container_fs_limit_bytes",
    help: "Size of the file system that has the writable layer.",
    kind: Gauge,
    labels: &["device"],
};
const INODES: Family = Family {
    name: "container_fs_inodes_total",
    help: "Inodes of the file system that has the writable layer.",
    kind: Gauge,
    labels: &["device"],
};
const INODES_FREE: Family = Family {
    name: "container_fs_inodes_free",
    help: "Free inodes of the file system that has the writable layer.",
    kind: Gauge,
    labels: &["device"],
};

pub(super) const FAMILIES: &[Family] =
    &[READ_BYTES, WRITE_BYTES, READS, WRITES, DEVICE_BYTES, USAGE, LIMIT, INODES, INODES_FREE];

pub(super) fn usage(stats: &IoStats, disks: &mut Disks, samples: &mut impl Samples) {
    for device in &stats.devices {
        let name = disks.name(device.major, device.minor);
        samples.add(&READ_BYTES, &[&name], Value::Count(device.read_bytes));
        samples.add(&WRITE_BYTES, &[&name], Value::Count(device.write_bytes));
        samples.add(&READS, &[&name], Value::Count(device.reads));
        samples.add(&WRITES, &[&name], Value::Count(device.writes));
        let (major, minor) = (device.major.to_string(), device.minor.to_string());
        for (operation, bytes) in [("Read", device.read_bytes), ("Write", device.write_bytes)] {
            samples.add(&DEVICE_BYTES, &[&name, &major, &minor, operation], Value::Count(bytes));
        }
    }
}

/// The file system with the writable layers.
#[derive(Debug, Default)]
pub(super) struct WritableDisk {
    device: Arc<str>,
    bytes: u64,
    inodes: u64,
    inodes_free: u64,
}

/// None when it is not counted yet.
pub(super) fn writable(usage: Option<&Usage>, disk: &WritableDisk, samples: &mut impl Samples) {
    for (family, value) in [
        (&USAGE, usage.map_or(0, |usage| usage.bytes)),
        (&LIMIT, disk.bytes),
        (&INODES, disk.inodes),
        (&INODES_FREE, disk.inodes_free),
    ] {
        samples.add(family, &[&disk.device], Value::Count(value));
    }
}

/// Names of disks by their numbers, cached for one scrape.
#[derive(Debug, Default)]
pub(super) struct Disks(HashMap<(u32, u32), Arc<str>>);

impl Disks {
    /// The file system of a folder; empty values if it does not exist.
    pub(super) fn of_folder(&mut self, folder: &Path) -> WritableDisk {
        let (Ok(stat), Ok(system)) = (rustix::fs::stat(folder), rustix::fs::statvfs(folder)) else {
            return WritableDisk::default();
        };
        WritableDisk {
            device: self.name(rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)),
            bytes: system.f_blocks.saturating_mul(system.f_frsize),
            inodes: system.f_files,
            inodes_free: system.f_ffree,
        }
    }

    /// `/dev/vda`; or `8:0` for a disk without a name, such as a hidden path of a multipath disk.
    fn name(&mut self, major: u32, minor: u32) -> Arc<str> {
        let look = || {
            // The last component of the link is the disk's name; device mapper writes slashes in names as
            // `!`.
            let link = rustix::fs::readlink(format!("/sys/dev/block/{major}:{minor}"), Vec::new());
            let target = link.ok().and_then(|target| target.into_string().ok()).unwrap_or_default();
            match target.rsplit('/').next() {
                Some(name) if !name.is_empty() => format!("/dev/{}", name.replace('!', "/")).into(),
                _ => format!("{major}:{minor}").into(),
            }
        };
        self.0.entry((major, minor)).or_insert_with(look).clone()
    }
}
