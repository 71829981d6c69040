//! The time and the boot id, in the form that records and responses use.

use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// The kernel's name for this boot, from proc(5) `/proc/sys/kernel/random/boot_id`. Empty when it cannot be
/// read: every record then counts as one of this boot.
#[must_use]
pub fn boot_id() -> &'static str {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        text.map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward_and_the_boot_has_a_name() {
        let before = now();
        assert!(before > 1_600_000_000_000_000_000);
        assert!(now() >= before);
        assert_eq!(boot_id().len(), 36, "{:?}", boot_id());
    }
}
