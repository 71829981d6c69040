//! `--ulimit NAME=SOFT[:HARD]`.

use std::collections::BTreeMap;

use crisp_runtime_service::spec::ulimits::names;

/// The value for no limit.
const UNLIMITED: u64 = u64::MAX;

/// A limit of the container's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    name: String,
    soft: u64,
    hard: u64,
}

/// Parses `nofile=1024:4096` or `core=-1`; without a hard limit, it is the soft one. -1 is no limit.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let wrong = || "expected NAME=SOFT[:HARD], as nofile=1024:4096; -1 for no limit".to_owned();
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    if !names().any(|known| known == name) {
        return Err(format!("{name:?} is no limit: there are {}", names().collect::<Vec<_>>().join(", ")));
    }
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(UNLIMITED),
        text if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err("the soft limit must not be above the hard limit".to_owned());
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// By name; of a name that is given twice the last one counts, as with docker.
pub fn by_name(all: &[Ulimit]) -> BTreeMap<String, (u64, u64)> {
    all.iter().map(|limit| (limit.name.clone(), (limit.soft, limit.hard))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_dockers() {
        for (text, soft, hard) in [
            ("nofile=1024:4096", 1024, 4096),
            ("nproc=5", 5, 5),
            ("core=-1", UNLIMITED, UNLIMITED),
            ("memlock=7:-1", 7, UNLIMITED),
            ("core=0", 0, 0),
        ] {
            let limit = ulimit(text).unwrap();
            assert_eq!((limit.soft, limit.hard), (soft, hard), "{text}");
        }
        for text in [
            "",
            "nofile",
            "nofile=",
            "nofile=:",
            "nofile=1:",
            "nofile=x",
            "nofile=-2",
            "files=1",
            "nofile=5:4",
            "nofile=-1:4",
            "nofile=1:2:3",
            "RLIMIT_NOFILE=1",
            "nofile=99999999999999999999",
        ] {
            assert!(ulimit(text).is_err(), "{text}");
        }
        let all = [ulimit("core=1").unwrap(), ulimit("core=2").unwrap()];
        assert_eq!(by_name(&all), BTreeMap::from([("core".to_owned(), (2, 2))]));
    }
}
