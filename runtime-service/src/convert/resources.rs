//! Converts LinuxContainerResources, in both directions. In the contract 0 and "" mean "no value".

use crisp_proto::runtime::v1 as proto;

use super::{ConvertError, invalid, no_nul, optional};
use crate::container::config::Resources;

/// # Errors
/// [`ConvertError`] naming the field below `at`.
pub fn resources(at: &str, value: proto::LinuxContainerResources) -> Result<Resources, ConvertError> {
    let field = |name: &str| format!("{at}.{name}");
    Ok(Resources {
        cpu_period: positive(&field("cpu_period"), value.cpu_period)?,
        cpu_quota: limit(&field("cpu_quota"), value.cpu_quota)?,
        cpu_shares: positive(&field("cpu_shares"), value.cpu_shares)?,
        memory_limit: limit(&field("memory_limit_in_bytes"), value.memory_limit_in_bytes)?,
        memory_swap_limit: limit(&field("memory_swap_limit_in_bytes"), value.memory_swap_limit_in_bytes)?,
        oom_score_adj: oom_score(&field("oom_score_adj"), value.oom_score_adj)?,
        cpuset_cpus: optional(&field("cpuset_cpus"), value.cpuset_cpus)?,
        cpuset_mems: optional(&field("cpuset_mems"), value.cpuset_mems)?,
        hugepages: value
            .hugepage_limits
            .into_iter()
            .enumerate()
            .map(|(i, h)| {
                Ok((page_size(&format!("{at}.hugepage_limits[{i}].page_size"), h.page_size)?, h.limit))
            })
            .collect::<Result<_, _>>()?,
        unified: value
            .unified
            .into_iter()
            .map(|(file, content)| unified(&field("unified"), file, content))
            .collect::<Result<_, _>>()?,
    })
}

/// The limits of a container, for ContainerStatus.
#[must_use]
pub fn to_proto(value: &Resources) -> proto::LinuxContainerResources {
    let unsigned = |v: Option<u64>| v.map_or(0, |v| i64::try_from(v).unwrap_or(i64::MAX));
    proto::LinuxContainerResources {
        cpu_period: unsigned(value.cpu_period),
        cpu_quota: value.cpu_quota.unwrap_or(0),
        cpu_shares: unsigned(value.cpu_shares),
        memory_limit_in_bytes: value.memory_limit.unwrap_or(0),
        oom_score_adj: value.oom_score_adj.into(),
        cpuset_cpus: value.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: value.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: value
            .hugepages
            .iter()
            .map(|(page_size, limit)| proto::HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        unified: value.unified.clone(),
        memory_swap_limit_in_bytes: value.memory_swap_limit.unwrap_or(0),
    }
}

fn positive(field: &str, value: i64) -> Result<Option<u64>, ConvertError> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(invalid(field, format!("{value} is negative"))),
    }
}

fn limit(field: &str, value: i64) -> Result<Option<i64>, ConvertError> {
    match value {
        0 => Ok(None),
        -1.. => Ok(Some(value)),
        _ => Err(invalid(field, format!("{value} is negative (-1 alone means no limit)"))),
    }
}

fn oom_score(field: &str, value: i64) -> Result<i32, ConvertError> {
    match i32::try_from(value) {
        Ok(value @ -1000..=1000) => Ok(value),
        _ => Err(invalid(field, format!("{value} is not between -1000 and 1000"))),
    }
}

fn page_size(field: &str, text: String) -> Result<String, ConvertError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let unit = &text[digits.len()..];
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && matches!(unit, "KB" | "MB" | "GB")
    {
        Ok(text)
    } else {
        Err(invalid(field, format!("{text:?} is not a page size such as 2MB")))
    }
}

/// A file in the container's own cgroup and its content, which is written unchanged.
fn unified(field: &str, file: String, content: String) -> Result<(String, String), ConvertError> {
    if file.contains('/') || !file.contains('.') || file.starts_with('.') || file.starts_with("cgroup.") {
        return Err(invalid(field, format!("{file:?} is not a controller's file such as memory.high")));
    }
    Ok((no_nul(field, file)?, no_nul(field, content)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_empty_mean_no_value() {
        let converted = resources("r", Default::default()).unwrap();
        assert_eq!(converted, Resources::default());
        assert_eq!(to_proto(&converted), Default::default());
    }

    #[test]
    fn what_goes_in_comes_out() {
        let value = proto::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 30,
            oom_score_adj: -997,
            cpuset_cpus: "0-3".into(),
            hugepage_limits: vec![proto::HugepageLimit { page_size: "2MB".into(), limit: 9 }],
            unified: [("memory.high".to_owned(), "max".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(to_proto(&resources("r", value.clone()).unwrap()), value);
    }

    #[test]
    fn errors_name_the_field() {
        let refused = |change: fn(&mut proto::LinuxContainerResources)| {
            let mut value = proto::LinuxContainerResources::default();
            change(&mut value);
            resources("config.linux.resources", value).unwrap_err().to_string()
        };
        let cases = [
            (refused(|r| r.cpu_shares = -1), "config.linux.resources.cpu_shares: -1"),
            (refused(|r| r.memory_limit_in_bytes = -2), "config.linux.resources.memory_limit_in_bytes: -2"),
            (refused(|r| r.oom_score_adj = 1001), "config.linux.resources.oom_score_adj: 1001"),
            (
                refused(|r| r.unified = [("../memory.max".to_owned(), "1".to_owned())].into()),
                "config.linux.resources.unified: ",
            ),
            (
                refused(|r| r.unified = [("cgroup.procs".to_owned(), "1".to_owned())].into()),
                "config.linux.resources.unified: ",
            ),
        ];
        for (message, expected) in cases {
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
