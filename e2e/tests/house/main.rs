//! House rules that the compiler does not know, mostly absences. Rules about calls are clippy's
//! `disallowed-methods` in `.clippy.toml`; here is only the test that they are switched on.

mod circles;
mod identifiers;
mod skips;
mod sources;
mod words;

use sources::{CRATES, all, offenders, product, root};

const NONE: [String; 0] = [];

#[test]
fn unsafe_code_has_two_rooms() {
    let rooms = ["sandbox/executor/src/sys/", "sandbox/monitor/src/sys.rs"];
    let kinds = ["{", "fn", "impl"].map(|kind| format!("unsafe {kind}"));
    let found = offenders(|file| {
        let is_unsafe = file.code().any(|line| kinds.iter().any(|kind| line.contains(kind)));
        is_unsafe && !rooms.iter().any(|room| file.path.starts_with(room))
    });
    assert_eq!(found, NONE);
}

#[test]
fn the_lists_of_forbidden_calls_apply_to_every_crate_of_the_product() {
    let switch = "#![cfg_attr(not(test), deny(clippy::disallowed_methods))]";
    for folder in CRATES.iter().filter(|folder| **folder != "proto") {
        let is_root = |path: &str| {
            path.strip_prefix(folder).is_some_and(|rest| ["/src/lib.rs", "/src/main.rs"].contains(&rest))
        };
        let roots: Vec<_> = product().into_iter().filter(|file| is_root(&file.path)).collect();
        assert!(!roots.is_empty(), "{folder} has no root file");
        for file in roots {
            assert!(file.text.contains(switch), "{}: add {switch}", file.path);
        }
    }
}

/// An exception names its reason where it is made.
#[test]
fn forbidden_calls_are_allowed_only_with_a_reason() {
    let found = offenders(|file| {
        file.product().match_indices("clippy::disallowed_methods").any(|(at, _)| {
            let rest = &file.product()[at..];
            let end = rest.find(")]").unwrap_or(rest.len());
            !rest[..end].contains("reason = ") && !file.product()[..at].ends_with("not(test), deny(")
        })
    });
    assert_eq!(found, NONE);
}

#[test]
fn sandbox_and_executor_do_not_know_the_contract() {
    let found = offenders(|file| file.path.starts_with("sandbox/") && file.product().contains("crisp_proto"));
    assert_eq!(found, NONE);
    let found =
        offenders(|file| file.path.starts_with("image-service/") && file.product().contains("crisp_sandbox"));
    assert_eq!(found, NONE);
    let names = ["crisp_proto", "crisp_sandbox"];
    let found = offenders(|file| {
        let of_streams = file.path.starts_with("runtime-service/streaming/");
        of_streams && names.iter().any(|name| file.product().contains(name))
    });
    assert_eq!(found, NONE);
}

#[test]
fn crates_depend_downwards() {
    for (folder, allowed) in [
        ("proto", &[][..]),
        ("metrics", &[]),
        ("metrics/operation", &["metrics"]),
        ("sandbox/executor", &[]),
        ("sandbox/monitor", &["executor"]),
        ("sandbox", &["executor", "metrics", "monitor", "operation"]),
        ("image-service", &["metrics", "operation", "proto"]),
        ("runtime-service/copy", &["executor", "image-service"]),
        ("runtime-service/streaming", &["metrics", "operation"]),
        (
            "runtime-service",
            &["copy", "executor", "image-service", "metrics", "operation", "proto", "sandbox", "streaming"],
        ),
        ("metrics/skip", &[]),
        ("e2e/fuzz", &["executor", "image-service", "monitor", "sandbox", "streaming"]),
        ("e2e", &[]),
    ] {
        let path = root().join(folder).join("Cargo.toml");
        let text = std::fs::read_to_string(path).expect("a manifest");
        let unexpected: Vec<_> = dependencies(&text)
            .into_iter()
            .filter(|name| name != "skip" && !allowed.contains(&name.as_str()))
            .collect();
        assert_eq!(unexpected, NONE, "{folder}");
    }
}

/// Our crates among the dependencies of a manifest, those of its tests too, without `crisp-`.
fn dependencies(manifest: &str) -> Vec<String> {
    let tables = ["\n[dependencies]", "\n[dev-dependencies]"];
    let tables = tables.iter().filter_map(|table| manifest.split(table).nth(1)?.split("\n[").next());
    let names = tables.flat_map(str::lines).filter_map(|line| line.strip_prefix("crisp-"));
    names.map(|line| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned()).collect()
}

/// print! and its sisters abort the program when the reader of the stream has left: use `crate::print`.
#[test]
fn a_reader_that_leaves_stops_no_command() {
    let found = offenders(|file| {
        file.path.starts_with("cri-server/src/")
            && file.code().any(|line| line.contains("print!(") || line.contains("println!("))
    });
    assert_eq!(found, NONE);
}

#[test]
fn no_module_is_called_after_nothing() {
    let names = ["utils", "util", "helpers", "helper", "common", "misc"];
    let named = |path: &str, name: &str| {
        path.ends_with(&format!("/{name}.rs")) || path.contains(&format!("/{name}/"))
    };
    assert_eq!(offenders(|file| names.iter().any(|name| named(&file.path, name))), NONE);
}

/// `mod.rs` for a module with a folder, so that each concept is in one place of a listing.
#[test]
fn no_file_has_a_folder_of_its_name_beside_it() {
    let found: Vec<_> = all()
        .into_iter()
        .filter(|file| root().join(file.path.trim_end_matches(".rs")).is_dir())
        .map(|file| file.path)
        .collect();
    assert_eq!(found, NONE, "move it into the folder as mod.rs");
}

/// Where things are on disk is said once per crate. Kernel files and the user's configuration are not ours
/// to lay out.
#[test]
fn one_layout_per_crate_joins_state_paths() {
    // Shrinks: these still join their own.
    let known = ["sandbox/src/network/builtin/mod.rs", "sandbox/src/network/cni/mod.rs"];
    let outside = [
        "cri-server/src/cli/credentials/mod.rs",
        "image-service/src/mirror/mod.rs",
        "runtime-service/src/convert/selinux.rs",
        "sandbox/executor/src/cgroup/hierarchy.rs",
    ];
    let joins = |line: &str| {
        line.match_indices(".join(\"")
            .any(|(at, word)| line[at + word.len()..].starts_with(char::is_lowercase))
    };
    let found = offenders(|file| {
        let exempt = known.contains(&file.path.as_str()) || outside.contains(&file.path.as_str());
        let exempt = exempt || file.path.ends_with("/layout.rs") || !file.path.contains("/src/");
        !exempt && file.code().any(joins)
    });
    assert_eq!(found, NONE, "put the path into the crate's layout.rs");
    for folder in CRATES {
        let layouts = product().into_iter().filter(|file| {
            file.path.starts_with(&format!("{folder}/src/")) && file.path.ends_with("/layout.rs")
        });
        let layouts: Vec<_> = layouts.map(|file| file.path).collect();
        assert!(layouts.len() <= 1, "{layouts:?}");
    }
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
    assert_eq!(others, NONE);
}
