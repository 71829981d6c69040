//! No two files of a crate need each other, directly or around a circle. What a folder's `mod.rs` offers to
//! the files below it (error types, above all) does not count.

use std::collections::{BTreeMap, BTreeSet};

use super::sources::{CRATES, Source, product};

/// Circles known when the rule was made, by one file of each. Shrinks to nothing.
const KNOWN: [&str; 0] = [];

type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn files_of_a_crate_form_no_circle() {
    let files = product();
    let mut found = Vec::new();
    for folder in CRATES {
        let graph = graph(&files, &format!("{folder}/src/"));
        for circle in circles(&graph) {
            if !circle.iter().any(|file| KNOWN.contains(&file.as_str())) {
                found.push(circle.join(" <-> "));
            }
        }
    }
    assert!(found.is_empty(), "circles:\n{}", found.join("\n"));
}

/// Module path of a file below `src/`: `a/b.rs` and `a/b/mod.rs` are a, b.
fn module(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').filter(|part| !["lib", "main", "mod"].contains(part)).map(str::to_owned).collect()
}

fn graph(files: &[Source], folder: &str) -> Graph {
    let ours: BTreeMap<Vec<String>, &Source> =
        files.iter().filter_map(|file| Some((module(file.path.strip_prefix(folder)?), file))).collect();
    let mut graph = Graph::new();
    for (module, file) in &ours {
        let targets = graph.entry(file.path.clone()).or_default();
        for used in used_paths(&file.code().collect::<Vec<_>>().join("\n"), module) {
            // The deepest file on the path; its rest names an item.
            let target = (1..=used.len()).rev().map(|len| &used[..len]).find(|part| ours.contains_key(*part));
            if let Some(target) = target.filter(|target| !module.starts_with(target)) {
                targets.insert(ours[target].path.clone());
            }
        }
    }
    graph
}

/// All paths that start with `crate`, `self` or `super`, as paths from the crate's root.
fn used_paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let starts = ["crate::", "super::", "self::"].map(|start| code.match_indices(start));
    for (at, start) in starts.into_iter().flatten() {
        let within =
            code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        if within {
            continue;
        }
        let mut base = match start {
            "crate::" => vec![],
            "self::" => module.to_vec(),
            _ => module[..module.len().saturating_sub(1)].to_vec(),
        };
        let mut rest = &code[at + start.len()..];
        while let Some(next) = rest.strip_prefix("super::") {
            base.pop();
            rest = next;
        }
        tree(rest, &base, &mut found);
    }
    found
}

/// The paths of a use tree (`a::b`, `a::{b, c::d}`) at the start of `text`; the text after it.
fn tree<'a>(text: &'a str, base: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = base.to_vec();
    let mut rest = text;
    loop {
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside.trim_start();
            while !rest.is_empty() && !rest.starts_with('}') {
                let before = rest;
                rest = tree(rest, &path, found);
                // `X as Y`, a comma, anything else.
                rest = rest.trim_start_matches(|c| !['}', ','].contains(&c));
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
                if rest.len() == before.len() {
                    return rest;
                }
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        path.push(rest[..end].to_owned());
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(next) => rest = next,
            None => {
                found.push(path);
                return rest;
            }
        }
    }
}

/// Sets of files that reach each other.
fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|start| (start, reachable(graph, start))).collect();
    let mut found = BTreeSet::new();
    for (start, reached) in &reach {
        let together: Vec<String> = reached
            .iter()
            .filter(|other| reach.get(**other).is_some_and(|back| back.contains(*start)))
            .map(|file| (*file).clone())
            .collect();
        if together.len() > 1 {
            found.insert(together);
        }
    }
    found.into_iter().collect()
}

fn reachable<'a>(graph: &'a Graph, start: &'a String) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut next = vec![start];
    while let Some(file) = next.pop() {
        for target in graph.get(file).into_iter().flatten() {
            if found.insert(target) {
                next.push(target);
            }
        }
    }
    found
}

#[test]
fn grouped_and_relative_paths_are_found() {
    let module = ["a".to_owned(), "b".to_owned()];
    let code = "use crate::{x::Y, z::{self, w::V}};\nuse super::c::T;\nfn f() { crate::q::r(1) }";
    let found = used_paths(code, &module);
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["x::Y", "z::self", "z::w::V", "q::r", "a::c::T"]);
}

#[test]
fn a_circle_of_three_is_found_and_a_line_is_not() {
    let file = |path: &str, text: &str| Source { path: format!("k/src/{path}"), text: text.to_owned() };
    let files = [
        file("lib.rs", ""),
        file("a.rs", "use crate::b::{B, B2};"),
        file("b.rs", "use crate::c::C; use crate::Error;"),
        file("c/mod.rs", "mod d; use crate::a::A;"),
        file("c/d.rs", "use super::Failure; use crate::e::E;"),
        file("e.rs", "// use crate::a::A;"),
    ];
    let found = circles(&graph(&files, "k/src/"));
    assert_eq!(found, [["k/src/a.rs", "k/src/b.rs", "k/src/c/mod.rs"]]);
}
