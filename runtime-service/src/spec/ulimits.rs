//! Limits of processes that a client sets by an annotation: the CRI has no field for them.

use std::collections::BTreeMap;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

/// A JSON object of names, as `ulimit` in docker has them, to soft and hard limits: `{"nofile": [1024, 4096]}`. The
/// largest number is no limit.
pub const ULIMITS: &str = "crisp/ulimits";

const NAMES: [(&str, PosixRlimitType); 16] = [
    ("as", PosixRlimitType::RlimitAs),
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nice", PosixRlimitType::RlimitNice),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("rss", PosixRlimitType::RlimitRss),
    ("rtprio", PosixRlimitType::RlimitRtprio),
    ("rttime", PosixRlimitType::RlimitRttime),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

/// The names of all limits.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

/// The limits of the annotation; none without it.
///
/// # Errors
/// It is not such an object, a name is unknown, or a soft limit is above its hard limit.
pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Result<Vec<PosixRlimit>, String> {
    let Some(text) = annotations.get(ULIMITS) else { return Ok(Vec::new()) };
    let all: BTreeMap<String, (u64, u64)> =
        serde_json::from_str(text).map_err(|error| format!("expected {{NAME: [SOFT, HARD]}}: {error}"))?;
    all.into_iter().map(|(name, (soft, hard))| limit(&name, soft, hard)).collect()
}

fn limit(name: &str, soft: u64, hard: u64) -> Result<PosixRlimit, String> {
    let found = NAMES.iter().find(|(known, _)| *known == name);
    let (_, typ) = found.ok_or_else(|| {
        format!("{name:?} is no limit: there are {}", names().collect::<Vec<_>>().join(", "))
    })?;
    if soft > hard {
        return Err(format!("{name}: the soft limit {soft} is above the hard limit {hard}"));
    }
    PosixRlimitBuilder::default().typ(*typ).soft(soft).hard(hard).build().map_err(|error| error.to_string())
}

/// The limits of every container, with those of this one in their place.
#[must_use]
pub fn with(of_all: &[PosixRlimit], own: Vec<PosixRlimit>) -> Vec<PosixRlimit> {
    let is_replaced = |limit: &&PosixRlimit| own.iter().any(|other| other.typ() == limit.typ());
    let kept: Vec<PosixRlimit> = of_all.iter().filter(|limit| !is_replaced(limit)).cloned().collect();
    [kept, own].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<PosixRlimit>, String> {
        of_annotations(&BTreeMap::from([(ULIMITS.to_owned(), text.to_owned())]))
    }

    #[test]
    fn limits_replace_those_of_every_container() {
        let of_all = super::super::limits::rlimits(super::super::limits::any);
        let own =
            read(r#"{"nofile": [1024, 4096], "memlock": [18446744073709551615, 18446744073709551615]}"#);
        let all = with(&of_all, own.unwrap());
        assert_eq!(all.len(), of_all.len() + 1, "one is new");
        let nofile = all.iter().filter(|limit| limit.typ() == PosixRlimitType::RlimitNofile);
        assert_eq!(nofile.map(|limit| (limit.soft(), limit.hard())).collect::<Vec<_>>(), [(1024, 4096)]);
        assert!(of_annotations(&BTreeMap::new()).unwrap().is_empty());
    }

    #[test]
    fn other_names_and_numbers_are_refused() {
        for (text, why) in [
            ("[]", "expected"),
            (r#"{"nofile": 5}"#, "expected"),
            (r#"{"nofile": [-1, 5]}"#, "expected"),
            (r#"{"files": [5, 5]}"#, "\"files\" is no limit"),
            (r#"{"nofile": [6, 5]}"#, "nofile: the soft limit 6 is above the hard limit 5"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
