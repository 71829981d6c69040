//! House rules that the compiler does not know, mostly absences.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The product's own sources: path below the top level, and text before the tests in it.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["proto", "metrics", "image-service", "runtime-service", "sandbox", "cri-server"] {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 50, "found only {} files: wrong folder?", found.len());
    found
}

fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the project").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "tests", "examples", "benches"].contains(&name.as_str()) {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !name.starts_with("tests") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let product = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            let below = path.strip_prefix(root()).expect("below the root").display().to_string();
            found.push((below, product));
        }
    }
}

/// As [`collect`], with tests, whole.
fn collect_all(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the project").flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            collect_all(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            found.push((path.strip_prefix(root()).expect("below the root").display().to_string(), text));
        }
    }
}

fn offenders(rule: impl Fn(&str, &str) -> bool) -> Vec<String> {
    sources().into_iter().filter(|(path, text)| rule(path, text)).map(|(path, _)| path).collect()
}

#[test]
fn unsafe_code_has_two_rooms() {
    let rooms = ["sandbox/executor/src/sys", "sandbox/monitor/src/sys"];
    let kinds = ["{", "fn", "impl"].map(|kind| format!("unsafe {kind}"));
    let unsafe_here = |text: &str| {
        let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.any(|line| kinds.iter().any(|kind| line.contains(kind)))
    };
    let found = offenders(|path, text| unsafe_here(text) && !rooms.iter().any(|room| path.starts_with(room)));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn processes_are_started_in_few_places() {
    let places = ["sandbox/src/network/cni/exec.rs", "sandbox/src/spawn.rs", "cri-server/build.rs"];
    let found = offenders(|path, text| text.contains("process::Command") && !places.contains(&path));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn sandbox_and_executor_do_not_know_the_contract() {
    let below = ["sandbox/"];
    let found =
        offenders(|path, text| below.iter().any(|b| path.starts_with(b)) && text.contains("crisp_proto"));
    assert_eq!(found, Vec::<String>::new());
    let found = offenders(|path, text| path.starts_with("image-service/") && text.contains("crisp_sandbox"));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn crates_depend_downwards() {
    let manifest = |path: &str| std::fs::read_to_string(root().join(path)).expect("a manifest");
    let ours = |text: &str| -> Vec<String> {
        let dependencies = text.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        let names = dependencies.lines().filter_map(|l| l.strip_prefix("crisp-"));
        let mut names: Vec<String> =
            names.map(|l| l.split(['.', ' ']).next().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    };
    for (path, allowed) in [
        ("proto/Cargo.toml", &[][..]),
        ("metrics/Cargo.toml", &[]),
        ("metrics/operation/Cargo.toml", &["metrics"]),
        ("sandbox/executor/Cargo.toml", &[]),
        ("sandbox/monitor/Cargo.toml", &["executor"]),
        ("sandbox/Cargo.toml", &["executor", "metrics", "monitor", "operation"]),
        ("image-service/Cargo.toml", &["metrics", "operation", "proto"]),
        (
            "runtime-service/Cargo.toml",
            &["executor", "image-service", "metrics", "operation", "proto", "sandbox"],
        ),
        ("e2e/skip/Cargo.toml", &[]),
        ("e2e/Cargo.toml", &["skip"]),
    ] {
        let unexpected: Vec<_> =
            ours(&manifest(path)).into_iter().filter(|n| !allowed.contains(&n.as_str())).collect();
        assert_eq!(unexpected, Vec::<String>::new(), "{path}");
    }
}

/// A test that leaves early by itself is a pass that nothing counts.
#[test]
fn tests_are_skipped_in_one_way() {
    let mut found = Vec::new();
    for folder in ["metrics", "image-service", "runtime-service", "sandbox", "cri-server", "e2e"] {
        collect_all(&root().join(folder), &mut found);
    }
    // In two pieces: this file is searched too.
    let words = [concat!("\"skip", "ped: "), concat!("\"SKIP", "PED: ")];
    found.retain(|(path, text)| {
        !path.starts_with("e2e/skip/") && words.iter().any(|word| text.contains(word))
    });
    let found: Vec<_> = found.into_iter().map(|(path, _)| path).collect();
    assert_eq!(found, Vec::<String>::new(), "skip by crisp_skip::needs! or unsupported!");
}

#[test]
fn no_room_is_called_after_nothing() {
    let found = offenders(|path, _| {
        ["utils", "util", "helpers", "helper", "common", "misc"]
            .iter()
            .any(|n| path.ends_with(&format!("/{n}.rs")) || path.contains(&format!("/{n}/")))
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_top_level_is_what_the_design_names() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "cri-server",
        "e2e",
        "image-service",
        "metrics",
        "proto",
        "runtime-service",
        "sandbox",
        "target",
    ];
    let entries = std::fs::read_dir(root()).expect("the top level").flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let others: Vec<_> = names.filter(|n| !n.starts_with('.') && !allowed.contains(&n.as_str())).collect();
    assert_eq!(others, Vec::<String>::new());
}
