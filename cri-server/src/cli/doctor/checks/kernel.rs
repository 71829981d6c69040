//! The kernel's version, and the features that it must have.

use std::path::Path;

use super::Check;

/// The oldest version with all features that a container needs: recursive read-only mounts, mounts with
/// mapped ids.
const OLDEST: (u32, u32) = (5, 12);
/// The first version that can kill a cgroup at once.
const GOOD: (u32, u32) = (5, 14);

pub fn checks() -> Vec<Check> {
    vec![
        version(&rustix::system::uname().release().to_string_lossy()),
        filesystems(),
        seccomp(),
        namespaces(),
    ]
}

fn version(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        let text = format!("Linux {release}: older than {}.{}, which containers need", OLDEST.0, OLDEST.1);
        return Check::failed("kernel", text);
    }
    if version < GOOD {
        let text =
            format!("Linux {release}: before {}.{} cgroups cannot be killed as a whole", GOOD.0, GOOD.1);
        return Check::warning("kernel", text);
    }
    Check::good("kernel", format!("Linux {release}"))
}

/// The kernel loads a module at its first use, so only a module that is not installed is a failure.
fn filesystems() -> Check {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let missing: Vec<&str> =
        ["overlay", "tmpfs", "proc"].into_iter().filter(|name| !is_known(&known, name)).collect();
    match missing[..] {
        [] => Check::good("file systems", "overlay, tmpfs, proc".to_owned()),
        ["overlay"] => {
            let text = "overlay is not loaded: `modprobe overlay`, unless the kernel loads it by itself";
            Check::warning("file systems", text.to_owned())
        }
        _ => Check::failed("file systems", format!("the kernel has no {}", missing.join(", "))),
    }
}

/// `nodev\toverlay`; see proc(5).
fn is_known(filesystems: &str, name: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().last() == Some(name))
}

fn seccomp() -> Check {
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Check::good("seccomp", "filters can be used".to_owned())
        }
        _ => Check::failed("seccomp", "the kernel has no seccomp filters: CONFIG_SECCOMP_FILTER".to_owned()),
    }
}

fn namespaces() -> Check {
    let missing: Vec<&str> = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    match missing[..] {
        [] => Check::good("namespaces", "all are there".to_owned()),
        ["user"] => Check::warning("namespaces", "no user namespaces: pods cannot have their own".to_owned()),
        _ => Check::failed("namespaces", format!("the kernel lacks {}", missing.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, outcome) in [
            ("4.18.0-553.el8.x86_64", Outcome::Failed),
            ("5.9.16", Outcome::Failed),
            ("5.12.0", Outcome::Warning),
            ("5.14.0-1", Outcome::Good),
            ("6.1", Outcome::Good),
            ("10.0-rc1", Outcome::Good),
        ] {
            assert_eq!(version(release).outcome, outcome, "{release}");
        }
    }

    #[test]
    fn file_systems_are_whole_words() {
        assert!(is_known("nodev\toverlay\n\text4\n", "overlay") && is_known("\text4", "ext4"));
        assert!(!is_known("nodev\toverlayfs\n", "overlay"));
    }
}
