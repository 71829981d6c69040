//! `fields.md` and the reader agree.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::refused_fields::Problems;
use super::strict_object::Object;
use super::workload;

/// How the reader handles a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Works,
    NoEffect,
    Refused,
    Unknown,
}

/// The status of a field, found by a value that is not valid for any field: a half.
fn status(path: &str) -> Status {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "b"}]},
    });
    let parts: Vec<&str> = path.split('.').collect();
    let mut place = &mut pod;
    for (index, part) in parts.iter().enumerate() {
        let name = part.trim_end_matches("[]");
        let is_last = index + 1 == parts.len();
        place = match (is_last, part.ends_with("[]")) {
            (true, _) => {
                place[name] = json!(0.5);
                &mut place[name]
            }
            (false, is_list) => {
                if place.get(name).is_none_or(Value::is_null) {
                    place[name] = if is_list { json!([{}]) } else { json!({}) };
                }
                if is_list { &mut place[name][0] } else { &mut place[name] }
            }
        };
    }
    let last = path.strip_suffix("[]").unwrap_or(path).replace("[]", "[0]");
    let problems = Problems::default();
    workload::read_pod(&Object::root(&pod, &problems).unwrap());
    let own = format!("{last}: ");
    let said: Vec<_> =
        problems.take().into_iter().filter_map(|p| Some(p.strip_prefix(&own)?.to_owned())).collect();
    if problems.take_without_effect().contains(&last) {
        Status::NoEffect
    } else if said.iter().any(|text| text.starts_with("is no field here")) {
        Status::Unknown
    } else if said.iter().any(|text| text.starts_with("not supported")) {
        Status::Refused
    } else {
        Status::Works
    }
}

#[test]
fn the_table_says_of_every_field_what_the_reader_does() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for row in include_str!("fields.md").lines().filter(|line| line.starts_with("| `spec")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let path = cells[0].trim_matches('`');
        let fits = match (cells[1], status(path)) {
            ("works", Status::Works) | ("no effect", Status::NoEffect) | ("refused", Status::Refused) => true,
            ("in part", Status::Works | Status::Refused) => !cells[2].is_empty(),
            _ => false,
        };
        if !fits || !seen.insert(path) {
            wrong.push(format!("{path}: {} in the table, {:?} in the reader", cells[1], status(path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.len() > 200, "only {} rows are read", seen.len());
}

#[test]
fn a_name_that_is_no_field_is_told_from_all_of_them() {
    for path in
        ["spec.containers[].comand", "spec.volumes[].emptydir", "spec.nodes", "spec.volumes[].secret.x"]
    {
        assert_eq!(status(path), Status::Unknown, "{path}");
    }
}
