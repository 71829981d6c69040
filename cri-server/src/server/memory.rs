//! Returns memory to the kernel after a burst (sessions, lists, pulls).

use std::time::Duration;

/// Interval of the checks.
const CHECK: Duration = Duration::from_secs(30);
/// Resident bytes of the program's file that are kept: usual requests use less. These pages are clean but
/// count as the server's memory; the kernel maps them again on use.
const PROGRAM_BYTES: u64 = 10 << 20;

/// Runs forever.
pub(super) async fn give_back() {
    loop {
        tokio::time::sleep(CHECK).await;
        crisp_executor::give_freed_memory_back();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if file_bytes(&status).is_some_and(|bytes| bytes > PROGRAM_BYTES) {
            crisp_executor::give_program_pages_back();
        }
    }
}

/// The resident pages of files in the text of /proc/PID/status: `RssFile:     13612 kB`.
fn file_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_pages_of_files_are_read() {
        assert_eq!(
            file_bytes("VmRSS:\t 26164 kB\nRssFile:\t   20480 kB\nRssShmem:\t 0 kB\n"),
            Some(20 << 20)
        );
        assert_eq!(file_bytes("VmRSS:\t 26164 kB\n"), None);
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(file_bytes(&own).unwrap() > 0);
    }
}
