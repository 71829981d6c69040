//! The support table in the documentation of crisp-runtime-service: generates it from the declarations, and
//! compares it with the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::promise::{By, Promise};

/// When it is 1, the test writes the file instead of comparing it.
const WRITE: &str = "CRISP_CONFORMANCE_WRITE";
const HEAD: &str = "# What is promised, and kept

Each line is a behaviour that the CRI or Kubernetes promises, and the test in `e2e/tests/conformance` that
shows it. The tests run against any runtime's socket; the last column is containerd 2.4.2 with runc 1.5.2 on
the same machine. The file is made of the tests' declarations.

| RPC or field | promise | by | test | Crisp | containerd |
|---|---|---|---|---|---|
";
const REST: &str = "
## Fields without a promise

No test above is about these RPCs and fields of the CRI, those for Windows left out.

";

fn promises() -> Vec<&'static Promise> {
    let themes = [
        crate::runtime::PROMISES,
        crate::pods::PROMISES,
        crate::namespaces::PROMISES,
        crate::network::PROMISES,
        crate::lifecycle::PROMISES,
        crate::containers::PROMISES,
        crate::processes::PROMISES,
        crate::listing::PROMISES,
        crate::exec::PROMISES,
        crate::streams::PROMISES,
        crate::logs::PROMISES,
        crate::mounts::PROMISES,
        crate::security::PROMISES,
        crate::users::PROMISES,
        crate::resources::PROMISES,
        crate::updates::PROMISES,
        crate::stats::PROMISES,
        crate::events::PROMISES,
        crate::images::PROMISES,
    ];
    themes.into_iter().flatten().collect()
}

/// A path in the project, by a top-level folder.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The RPCs, and the fields with their message, in the order of the contract.
fn contract() -> Vec<(String, Option<String>)> {
    let text =
        std::fs::read_to_string(project("proto/proto/runtime/v1/runtime.proto")).expect("the contract");
    let mut message = String::new();
    let mut is_enum = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        let words: Vec<&str> = line.split([' ', '(']).collect();
        match words[..] {
            ["rpc", name, ..] => found.push((name.to_owned(), None)),
            ["message", name, ..] => name.clone_into(&mut message),
            ["enum", ..] => is_enum = true,
            // An enum may be inside a message, whose fields continue after it.
            ["}"] if is_enum => is_enum = false,
            ["}"] => message.clear(),
            _ if is_enum || message.is_empty() => {}
            _ => {
                let declared = line.split_once(" = ").and_then(|(left, _)| left.rsplit(' ').next());
                found.extend(declared.map(|field| (message.clone(), Some(field.to_owned()))));
            }
        }
    }
    found.retain(|(owner, field)| {
        !owner.starts_with("Windows") && field.as_ref().is_none_or(|name| name != "windows")
    });
    found
}

fn named(owner: &str, field: Option<&str>) -> String {
    field.map_or_else(|| owner.to_owned(), |field| format!("{owner}.{field}"))
}

fn table(promises: &[&Promise], contract: &[(String, Option<String>)]) -> String {
    let mut text = HEAD.to_owned();
    for promise in promises {
        let about: Vec<String> = promise.about.iter().map(|name| format!("`{name}`")).collect();
        let by = match promise.by {
            By::Cri => "CRI",
            By::Kubernetes => "Kubernetes",
        };
        let column = |runtime: &str| {
            let broken = promise.broken_by.iter().find(|(name, _)| *name == runtime);
            broken.map_or_else(|| "yes".to_owned(), |(_, failure)| format!("no: {failure}"))
        };
        let theme = promise.theme.rsplit("::").next().unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | {} | {by} | `{theme}::{}` | {} | {} |",
            about.join(", "),
            promise.text,
            promise.test,
            column("crisp"),
            column("containerd")
        );
    }
    text + REST + &without_promise(promises, contract)
}

fn without_promise(promises: &[&Promise], contract: &[(String, Option<String>)]) -> String {
    let kept: BTreeSet<&str> = promises.iter().flat_map(|promise| promise.about).copied().collect();
    let mut rpcs = Vec::new();
    let mut fields: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (owner, field) in contract {
        if kept.contains(named(owner, field.as_deref()).as_str()) {
            continue;
        }
        match field {
            None => rpcs.push(format!("`{owner}`")),
            Some(field) => fields.entry(owner).or_default().push(format!("`{field}`")),
        }
    }
    let mut text = format!("- RPCs: {}\n", rpcs.join(", "));
    for (owner, fields) in fields {
        let _ = writeln!(text, "- `{owner}`: {}", fields.join(", "));
    }
    text
}

#[test]
fn declarations_name_what_the_contract_has_and_each_test_once() {
    let contract: BTreeSet<String> =
        contract().iter().map(|(owner, field)| named(owner, field.as_deref())).collect();
    assert!(contract.len() > 400, "only {} RPCs and fields: is the contract read right?", contract.len());
    let mut tests = BTreeSet::new();
    for promise in promises() {
        assert!(tests.insert(promise.test), "{} is there twice", promise.test);
        for name in promise.about {
            assert!(contract.contains(*name), "{}: the CRI has no {name}", promise.test);
        }
    }
}

#[test]
fn the_table_in_the_documentation_is_the_declarations() {
    let file = project("runtime-service/CONFORMANCE.md");
    let expected = table(&promises(), &contract());
    if std::env::var_os(WRITE).is_some_and(|value| value == "1") {
        std::fs::write(&file, &expected).expect("the table can be written");
    }
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = text.lines().zip(expected.lines()).find(|(is, should)| is != should);
    assert!(
        text == expected,
        "{} is not what the tests declare ({differs:?}): {WRITE}=1 cargo test -p crisp-e2e --test conformance \
         the_table writes it anew",
        file.display()
    );
}
