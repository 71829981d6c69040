//! Real containers, started the way a monitor starts them.
//!
//! A start wants a process with one thread that has left the host's root for good, so every test
//! runs in a process of its own: this program runs itself once per test.
//!
//! ```text
//!  main --- for each test: folder, then itself with CRISP_TEST=<name>
//!                                   |
//!                                   lab: root folder, mount namespace, pod_root::enter, run::start
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail where it stands")]

mod lab;
mod plans;
mod timing;
mod with_cgroups;
mod with_detachment;
mod with_errors;
mod with_execs;
mod with_files;
mod with_hostility;
mod with_inheritance;
mod with_processes;
#[cfg(feature = "compile")]
mod with_specs;
#[cfg(feature = "compile")]
mod with_user_namespaces;

use std::process::{Command, ExitCode};

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let tests: Vec<Test> = [
        with_processes::TESTS,
        with_detachment::TESTS,
        with_execs::TESTS,
        with_files::TESTS,
        with_cgroups::TESTS,
        with_hostility::TESTS,
        with_inheritance::TESTS,
        with_errors::TESTS,
        #[cfg(feature = "compile")]
        with_specs::TESTS,
        #[cfg(feature = "compile")]
        with_user_namespaces::TESTS,
        timing::TESTS,
    ]
    .concat();
    if let Ok(name) = std::env::var("CRISP_TEST") {
        if name == with_hostility::RACER {
            with_hostility::race();
        }
        if name == with_hostility::WATCHER {
            with_hostility::watch_joins();
        }
        let test = tests.iter().find(|(test, _)| *test == name);
        test.map(|(_, run)| run()).expect("a test of that name");
        return ExitCode::SUCCESS;
    }
    let filters = filters();
    if std::env::args().any(|a| a == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if crisp_skip::lacks(&["busybox"]) {
        return ExitCode::SUCCESS;
    }
    let chosen =
        tests.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f)));
    let (passed, failed) = chosen.partition::<Vec<&Test>, _>(|(name, _)| passes(name));
    let (word, left_out) =
        (if failed.is_empty() { "ok" } else { "FAILED" }, tests.len() - passed.len() - failed.len());
    println!(
        "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {left_out} filtered out",
        passed.len(),
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Parts of test names, among the options of cargo's own test runner: of those only `--test-threads`
/// is followed by a word of its own.
fn filters() -> Vec<String> {
    let mut args = std::env::args().skip(1);
    let mut filters = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--test-threads" => drop(args.next()),
            option if option.starts_with('-') => {}
            _ => filters.push(arg),
        }
    }
    filters
}

fn passes(name: &str) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = std::env::current_exe().expect("our own path");
    let output = Command::new(own)
        .env("CRISP_TEST", name)
        .env("CRISP_TEST_FOLDER", folder.path())
        .output()
        .expect("to run ourselves");
    let passed = output.status.success();
    println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    crisp_skip::forward(name, &err);
    if !passed || name.starts_with("time_") {
        println!("{out}{err}{}", output.status);
    }
    passed
}
