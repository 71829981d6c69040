//! Counting of disk requests by cgroup v1.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crisp_e2e::Result;

const BLKIO: &str = "/sys/fs/cgroup/blkio";

/// Makes the kernel count requests to the disk of `folder` from now on: on cgroup v1 it does not before a limit
/// of that disk was set, in any cgroup. Returns false where the folder is not on a disk.
pub fn count_requests(folder: &Path) -> Result<bool> {
    let number = std::fs::metadata(folder)?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let whole = if device.join("partition").exists() { device.join("../dev") } else { device.join("dev") };
    let Ok(whole) = std::fs::read_to_string(whole) else { return Ok(false) };
    let cgroup = Path::new(BLKIO).join(format!("crisp-e2e-disk-{}", std::process::id()));
    std::fs::create_dir(&cgroup)?;
    // A terabyte a second.
    let limit = format!("{} {}", whole.trim(), 1u64 << 40);
    let written = std::fs::write(cgroup.join("blkio.throttle.write_bps_device"), limit);
    std::fs::remove_dir(&cgroup)?;
    Ok(written.map(|()| true)?)
}
