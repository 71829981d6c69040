//! hugetlb: limits per size of huge pages.

use super::dir::Dir;
use super::error::CgroupError;
use super::resources::{HugepageLimit, invalid};

pub(super) fn apply_v2(dir: &Dir, limits: &[HugepageLimit]) -> Result<(), CgroupError> {
    apply(dir, limits, "max", "rsvd.max")
}

pub(super) fn apply_v1(dir: &Dir, limits: &[HugepageLimit]) -> Result<(), CgroupError> {
    apply(dir, limits, "limit_in_bytes", "rsvd.limit_in_bytes")
}

fn apply(dir: &Dir, limits: &[HugepageLimit], used: &str, reserved: &str) -> Result<(), CgroupError> {
    for limit in limits {
        check_size(&limit.page_size)?;
        let value = limit.limit.to_string();
        dir.write(&format!("hugetlb.{}.{used}", limit.page_size), &value)?;
        // Reservations are counted apart since Linux 5.7; without it they fail only at the first touch.
        dir.write_opt(&format!("hugetlb.{}.{reserved}", limit.page_size), &value)?;
    }
    Ok(())
}

/// It becomes part of a file name.
pub(super) fn check_size(size: &str) -> Result<(), CgroupError> {
    let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let valid = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && matches!(&size[digits.len()..], "KB" | "MB" | "GB");
    if valid { Ok(()) } else { Err(invalid("hugepage size", format!("{size:?} is not like 2MB or 1GB"))) }
}
