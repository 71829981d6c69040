//! The one way to skip a test, and to leave nothing behind when one fails ([`Cleanup`]).
//!
//! A skip prints `SKIPPED: test: reason` past the capture of the test's output; the gate counts those
//! lines. There are two kinds:
//!
//! - [`needs!`]: the test needs root, programs or packages. Where everything is installed (`e2e/test.sh` sets
//!   `CRISP_TESTS_COMPLETE=1`), a missing one fails the test.
//! - [`unsupported!`]: the kernel or the kind of machine lacks something, see [`Lacks`]. Always allowed.
//!
//! Both return from the test with the value that stands for "nothing" in its return type ([`Skipped`]).
//!
//! ```
//! # fn test() -> Option<()> {
//! crisp_skip::needs!("sh");
//! if !std::path::Path::new("/sys").exists() {
//!     crisp_skip::unsupported!(Device("/sys"));
//! }
//! # Some(())
//! # }
//! # assert!(test().is_some() || !crisp_skip::is_root());
//! ```

mod cleanup;

use std::fmt::{self, Display, Formatter};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub use cleanup::Cleanup;

/// Set to `1` by a script that has installed all packages that the tests need.
pub const COMPLETE: &str = "CRISP_TESTS_COMPLETE";

/// A property that a machine can lack although every package is installed. For a new kind of reason, add a
/// variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// A hierarchy of cgroup v1, by its controller.
    CgroupV1(&'static str),
    CgroupV2,
    /// A controller of cgroup v2.
    Controller(&'static str),
    Capability(&'static str),
    /// A device node, or another file of the kernel.
    Device(&'static str),
    /// A kernel feature, with the first version that has it.
    Kernel(&'static str),
    SecurityModule(&'static str),
    /// The cgroup driver that the tests have to use.
    CgroupDriver(&'static str),
    /// The kind of file system that the temporary folder is on.
    FileSystem(&'static str),
    /// A toolchain that Debian does not package in the version that is needed.
    Toolchain(&'static str),
    /// The opposite of a lack: the test can only run on a machine without this.
    Without(&'static str),
}

impl Display for Lacks {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::CgroupV1(controller) => write!(f, "no cgroup v1 hierarchy of {controller}"),
            Self::CgroupV2 => f.write_str("no cgroup v2"),
            Self::Controller(controller) => write!(f, "cgroup v2 has no {controller} controller here"),
            Self::Capability(name) => write!(f, "no {name}"),
            Self::Device(path) => write!(f, "no {path}"),
            Self::Kernel(feature) => write!(f, "the kernel has no {feature}"),
            Self::CgroupDriver(name) => write!(f, "the cgroup driver is not {name}"),
            Self::SecurityModule(name) => write!(f, "{name} is off"),
            Self::FileSystem(name) => write!(f, "the temporary folder is not on {name}"),
            Self::Toolchain(name) => write!(f, "{name} is not installed"),
            Self::Without(what) => write!(f, "this machine has {what}"),
        }
    }
}

/// The return value of a skipped test.
pub trait Skipped {
    fn skipped() -> Self;
}

impl Skipped for () {
    fn skipped() -> Self {}
}

impl<T> Skipped for Option<T> {
    fn skipped() -> Self {
        None
    }
}

impl<E> Skipped for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// Skips the calling test unless it runs as root and finds all the given programs on PATH. A program with
/// a slash is a path.
#[macro_export]
macro_rules! needs {
    ($($program:expr),* $(,)?) => {
        if $crate::lacks(&[$($program),*]) {
            return $crate::Skipped::skipped();
        }
    };
}

/// Skips the calling test, because the machine lacks the property in [`Lacks`].
#[macro_export]
macro_rules! unsupported {
    ($lacks:ident $(($what:expr))?) => {{
        $crate::report_unsupported($crate::Lacks::$lacks $(($what))?);
        return $crate::Skipped::skipped();
    }};
}

/// The function behind [`needs!`]: reports and returns whether root or one of the programs is missing.
///
/// # Panics
/// When one is missing although all packages are installed.
#[must_use]
#[track_caller]
pub fn lacks(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|name| program(name).is_none()).copied().collect();
    let reason = if !is_root() {
        "needs root".to_owned()
    } else if !missing.is_empty() {
        format!("needs {}", missing.join(", "))
    } else {
        return false;
    };
    assert!(std::env::var_os(COMPLETE).is_none_or(|value| value != "1"), "{reason} ({COMPLETE} is set)");
    report(&reason);
    true
}

/// The function behind [`unsupported!`].
pub fn report_unsupported(lacks: Lacks) {
    report(&lacks.to_string());
}

/// Whether this process has root's rights on files.
#[must_use]
pub fn is_root() -> bool {
    // proc(5): the folder belongs to the process's effective user.
    std::fs::metadata("/proc/self").is_ok_and(|folder| folder.uid() == 0)
}

/// The path of a program in PATH, in the folders of root's programs, or in that of Go.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.exists());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"]);
    folders.map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// Reports the skips in the captured output of a child process of a test again, under the name of the test.
pub fn forward(test: &str, output: &str) {
    for line in output.lines().filter_map(|line| line.strip_prefix("SKIPPED: ")) {
        let reason = line.split_once(": ").map_or(line, |(_, reason)| reason);
        write(test, reason);
    }
}

fn report(reason: &str) {
    // libtest's threads have the names of the tests.
    write(std::thread::current().name().unwrap_or("test"), reason);
}

/// Writes the line in one call, and always at the start of a line.
fn write(test: &str, reason: &str) {
    let line = format!("\nSKIPPED: {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the test `name` of this program in a process of its own. `complete`: with the variable
    /// [`COMPLETE`] set.
    fn run_alone(name: &str, complete: bool) -> (bool, String) {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args([&format!("tests::{name}"), "--exact", "--ignored", "--test-threads=2"]);
        command.env_remove(COMPLETE);
        if complete {
            command.env(COMPLETE, "1");
        }
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    #[test]
    #[ignore = "run by the tests below"]
    fn needs_what_is_not_there() {
        needs!("sh", "no-such-program-anywhere");
        unreachable!("the test went on");
    }

    #[test]
    #[ignore = "run by the tests below"]
    fn runs_on_a_kernel_that_cannot() {
        unsupported!(Kernel("time travel (9.0)"));
    }

    #[test]
    fn a_missing_program_is_a_skip_and_a_failure_where_all_is_installed() {
        let (passed, errors) = run_alone("needs_what_is_not_there", false);
        let skipped = errors.lines().filter(|line| line.starts_with("SKIPPED: tests::needs_what")).count();
        assert_eq!((passed, skipped), (true, 1), "{errors}");
        assert!(!run_alone("needs_what_is_not_there", true).0);
    }

    #[test]
    fn what_a_machine_cannot_have_is_a_skip_everywhere() {
        for complete in [false, true] {
            let (passed, errors) = run_alone("runs_on_a_kernel_that_cannot", complete);
            assert!(passed && errors.contains("the kernel has no time travel"), "{errors}");
        }
    }

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        assert!(program("sh").is_some_and(|path| path.is_absolute()));
        assert!(program("/bin/sh").is_some() && program("/bin/no-such").is_none());
    }
}
