//! Names of slices and scopes, and the paths of slices, see systemd.slice(5).

use std::borrow::Cow;

use crisp_executor::cgroup::CgroupPath;
use crisp_executor::ids::PodId;

/// Limit for a unit's name, including its suffix.
const NAME_MAX: usize = 255;
/// Leaves space for a scope and a container below.
const PATH_MAX: usize = 3500;
const ENDING: &str = ".slice";

/// The reason why a text is not a slice's name or path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a systemd slice: {reason}")]
pub struct InvalidSlice {
    text: String,
    reason: String,
}

/// The cgroup of a slice, by its name (`a-b.slice`) or its path (`/a.slice/a-b.slice`, as kubelet sends it;
/// kubelet does not use [`escape`]).
///
/// # Errors
/// [`InvalidSlice`] with the rule that `text` breaks.
pub fn slice_path(text: &str) -> Result<CgroupPath, InvalidSlice> {
    let refuse =
        |reason: &str| InvalidSlice { text: text.chars().take(256).collect(), reason: reason.to_owned() };
    let name = text.rsplit('/').next().unwrap_or(text);
    let levels = levels(name).map_err(refuse)?;
    let plain: String = levels.iter().flat_map(|level| ["/", level]).collect();
    let path: String = levels.iter().flat_map(|level| [Cow::from("/"), escape(level)]).collect();
    if ![name, plain.as_str(), path.as_str()].contains(&text) {
        return Err(refuse(&format!("slice {name} is at {path}")));
    }
    if path.len() > PATH_MAX {
        return Err(refuse("its path is too long: it has too many dashes"));
    }
    CgroupPath::parse(&path).map_err(|error| refuse(&error.to_string()))
}

/// Whether a text is meant as a slice, even if it is not valid.
#[must_use]
pub fn is_slice(text: &str) -> bool {
    text.ends_with(ENDING)
}

/// Each dash is a level: `a-b.slice` is in `a.slice`. The names of all levels, from the highest to the
/// lowest.
fn levels(name: &str) -> Result<Vec<String>, &'static str> {
    let Some(stem) = name.strip_suffix(ENDING) else {
        return Err("its name does not end in .slice");
    };
    if name.len() > NAME_MAX {
        return Err("its name is longer than 255 bytes");
    }
    if stem == "-" {
        return Err("it is the root of all slices, in which no pod can be");
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\".contains(&b);
    if !stem.bytes().all(allowed) {
        return Err("a unit's name has letters, digits and :-_.\\ only");
    }
    if stem.split('-').any(str::is_empty) {
        return Err("there is nothing before, after or between dashes of its name");
    }
    let ends = stem.match_indices('-').map(|(end, _)| end).chain([stem.len()]);
    Ok(ends.map(|end| format!("{}{ENDING}", &stem[..end])).collect())
}

/// The names that systemd treats as controllers, in any of its versions.
const CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "io",
    "blkio",
    "memory",
    "devices",
    "pids",
    "bpf-firewall",
    "bpf-devices",
    "bpf-foreign",
    "bpf-socket-bind",
    "bpf-restrict-network-interfaces",
    "bpf-bind-network-interface",
];

/// The folder of a unit: systemd prefixes `_` to names that could be those of a cgroup's own files, and to
/// names that begin with `_`.
fn escape(unit: &str) -> Cow<'_, str> {
    let of_controller = |name: &&str| unit.strip_prefix(*name).is_some_and(|rest| rest.starts_with('.'));
    let is_file = unit.starts_with("cgroup.") || CONTROLLERS.iter().any(of_controller);
    if is_file || unit.starts_with(['_', '.']) { format!("_{unit}").into() } else { unit.into() }
}

/// The unit of a folder that [`escape`] has named.
pub(super) fn unit_name(folder: &str) -> &str {
    folder.strip_prefix('_').unwrap_or(folder)
}

/// `crisp-<pod>.scope`. kubelet treats the text between the last dash and `.scope` as an id.
pub(crate) fn scope_name(pod: &PodId) -> String {
    format!("crisp-{pod}.scope")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dash_is_a_level() {
        let path = |text: &str| slice_path(text).unwrap().as_str().to_owned();
        assert_eq!(path("system.slice"), "/system.slice");
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice";
        assert_eq!(path("kubepods-burstable-podab_cd.slice"), pod);
        assert_eq!(path(pod), pod, "as kubelets send it");
        assert_eq!(path(r"a\x2db.slice"), r"/a\x2db.slice");
    }

    #[test]
    fn names_like_those_of_the_kernels_files_are_escaped_as_systemd_does() {
        for (text, path) in [
            ("memory-web.slice", "/_memory.slice/memory-web.slice"),
            ("/memory.slice/memory-web.slice", "/_memory.slice/memory-web.slice"),
            ("/_memory.slice/memory-web.slice", "/_memory.slice/memory-web.slice"),
            ("/cpu.slice", "/_cpu.slice"),
            ("io-a.slice", "/_io.slice/io-a.slice"),
            ("bpf-firewall.slice", "/bpf.slice/_bpf-firewall.slice"),
            ("_x.slice", "/__x.slice"),
            ("/_x.slice", "/__x.slice"),
            (".x.slice", "/_.x.slice"),
            ("cgroup.slice", "/_cgroup.slice"),
            ("cgroups.slice", "/cgroups.slice"),
            ("cpus.slice", "/cpus.slice"),
            ("x_.slice", "/x_.slice"),
        ] {
            let found = slice_path(text).unwrap();
            assert_eq!(found.as_str(), path, "{text}");
            let name = text.rsplit('/').next().unwrap();
            assert_eq!(unit_name(found.name()), name, "the unit, as systemd is asked for it");
        }
    }

    #[test]
    fn what_is_no_slice_is_refused_by_the_rule_that_it_breaks() {
        for (text, reason) in [
            ("/kubepods/burstable/pod1", "does not end in .slice"),
            ("kubepods", "does not end in .slice"),
            (".slice", "nothing before"),
            ("-.slice", "root of all slices"),
            ("/-.slice", "root of all slices"),
            ("a--b.slice", "between dashes"),
            ("-a.slice", "nothing before"),
            ("a-.slice", "after"),
            ("a b.slice", "letters, digits"),
            ("a\n.slice", "letters, digits"),
            ("a@b.slice", "letters, digits"),
            ("../a.slice", "is at /a.slice"),
            ("/a.slice/../a.slice", "is at /a.slice"),
            ("/b.slice/a.slice", "is at /a.slice"),
            ("a.slice/a-b.slice", "is at /a.slice/a-b.slice"),
            ("//a.slice", "is at /a.slice"),
        ] {
            let error = slice_path(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert!(slice_path(&format!("{}.slice", "x".repeat(250))).is_err());
        let deep = format!("{}a.slice", "a-".repeat(120));
        assert!(slice_path(&deep).unwrap_err().to_string().contains("too many dashes"));
    }
}
