//! Limits of processes that a client sets by an annotation: the CRI has no field for them.

use std::collections::BTreeMap;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};
use rustix::process::Resource;

/// A JSON object of names, as `ulimit` in docker has them, to soft and hard limits: `{"nofile": [1024, 4096]}`. The
/// largest number is no limit.
pub const ULIMITS: &str = "crisp/ulimits";

const NAMES: [(&str, PosixRlimitType, Resource); 16] = [
    ("as", PosixRlimitType::RlimitAs, Resource::As),
    ("core", PosixRlimitType::RlimitCore, Resource::Core),
    ("cpu", PosixRlimitType::RlimitCpu, Resource::Cpu),
    ("data", PosixRlimitType::RlimitData, Resource::Data),
    ("fsize", PosixRlimitType::RlimitFsize, Resource::Fsize),
    ("locks", PosixRlimitType::RlimitLocks, Resource::Locks),
    ("memlock", PosixRlimitType::RlimitMemlock, Resource::Memlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue, Resource::Msgqueue),
    ("nice", PosixRlimitType::RlimitNice, Resource::Nice),
    ("nofile", PosixRlimitType::RlimitNofile, Resource::Nofile),
    ("nproc", PosixRlimitType::RlimitNproc, Resource::Nproc),
    ("rss", PosixRlimitType::RlimitRss, Resource::Rss),
    ("rtprio", PosixRlimitType::RlimitRtprio, Resource::Rtprio),
    ("rttime", PosixRlimitType::RlimitRttime, Resource::Rttime),
    ("sigpending", PosixRlimitType::RlimitSigpending, Resource::Sigpending),
    ("stack", PosixRlimitType::RlimitStack, Resource::Stack),
];

/// The names of all limits.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, ..)| *name)
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
    let found = NAMES.iter().find(|(known, ..)| *known == name);
    let (_, typ, _) = found.ok_or_else(|| {
        format!("{name:?} is no limit: there are {}", names().collect::<Vec<_>>().join(", "))
    })?;
    if soft > hard {
        return Err(format!("{name}: the soft limit {soft} is above the hard limit {hard}"));
    }
    PosixRlimitBuilder::default().typ(*typ).soft(soft).hard(hard).build().map_err(|error| error.to_string())
}

/// Refuses limits that the kernel would not set; those of every container are lowered instead. `highest` is the
/// highest hard limit.
///
/// # Errors
/// The name of such a limit, and the highest one.
pub fn check(own: &[PosixRlimit], highest: impl Fn(Resource) -> u64) -> Result<(), String> {
    for limit in own {
        let Some((name, _, resource)) = NAMES.iter().find(|(_, typ, _)| *typ == limit.typ()) else {
            continue;
        };
        let (highest, hard) = (highest(*resource), limit.hard());
        if hard > highest {
            return Err(format!(
                "{name}: the hard limit {hard} is above {highest}, the highest one of this host"
            ));
        }
    }
    Ok(())
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
    fn a_limit_that_cannot_be_set_is_refused_by_its_name() {
        let own = read(r#"{"nofile": [5, 9], "core": [5, 18446744073709551615]}"#).unwrap();
        let highest =
            |of_files| move |resource| if resource == Resource::Nofile { of_files } else { u64::MAX };
        check(&own, highest(9)).unwrap();
        assert!(check(&own, highest(8)).unwrap_err().starts_with("nofile: the hard limit 9 is above 8"));
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
