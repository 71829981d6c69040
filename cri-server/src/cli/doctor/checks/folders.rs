//! Free space on the file systems of the server's folders.

use std::path::Path;

use super::Check;
use crate::config::Settings;
use crate::table::size;

/// Percent. Below this, space runs out soon: kubelet evicts pods at 5 % of inodes and 10 % of bytes.
const SCARCE: u64 = 10;
/// Percent. Below this, the next pull fails.
const FULL: u64 = 2;

pub fn checks(settings: &Settings) -> Vec<Check> {
    [&settings.root.value, &settings.state.value].map(|folder| of_folder(folder)).into()
}

fn of_folder(folder: &Path) -> Check {
    // A folder that does not exist yet will be on the file system of the folder above it.
    let Some(existing) = folder.ancestors().find(|path| path.exists()) else {
        return Check::failed("disk", format!("{} cannot be looked at", folder.display()));
    };
    match rustix::fs::statvfs(existing) {
        Ok(stat) => of_room(
            folder,
            [(stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize), (stat.f_favail, stat.f_files)],
        ),
        Err(errno) => Check::failed("disk", format!("{}: {errno}", existing.display())),
    }
}

/// `(free, total)` of bytes and of inodes.
fn of_room(folder: &Path, [bytes, inodes]: [(u64, u64); 2]) -> Check {
    // Some file systems have no fixed number of inodes.
    let percent = |(free, all): (u64, u64)| free.saturating_mul(100).checked_div(all).unwrap_or(100);
    let least = percent(bytes).min(percent(inodes));
    let text = format!(
        "{}: {} free of {} ({} %), {} % of inodes free",
        folder.display(),
        size(bytes.0),
        size(bytes.1),
        percent(bytes),
        percent(inodes)
    );
    match least {
        0..FULL => Check::failed("disk", format!("{text}: full; `crisp image prune`")),
        FULL..SCARCE => Check::warning("disk", format!("{text}: nearly full; `crisp image prune`")),
        _ => Check::good("disk", text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn both_bytes_and_inodes_run_out() {
        let of = |bytes, inodes| of_room(Path::new("/x"), [bytes, inodes]).outcome;
        assert_eq!(of((50, 100), (50, 100)), Outcome::Good);
        assert_eq!(of((50, 100), (0, 0)), Outcome::Good);
        assert_eq!(of((50, 100), (1, 100)), Outcome::Failed);
        assert_eq!(of((5, 100), (50, 100)), Outcome::Warning);
    }
}
