//! Names of types, functions and modules: the field's own words, and none of a private language.

use super::sources::product;

/// Parts of a name that may not come back, with the usual words. A name of more than three parts is a sentence, as those
/// of tests are, and is not looked at.
const PARTS: [(&str, &str); 9] = [
    ("answer", "response"),
    ("ask", "request, query, probe, confirm"),
    ("asker", "client"),
    ("asked", "request"),
    ("question", "query, request"),
    ("questions", "queries, budget"),
    ("tell", "emit, send, report"),
    ("told", "sent, logged, recorded"),
    ("hide", "close, mask"),
];

/// Whole names that may not come back.
const NAMES: [(&str, &str); 18] = [
    ("board", "descriptor budget"),
    ("core", "service state"),
    ("door", "status cell"),
    ("facts", "metadata"),
    ("figures", "stats, response"),
    ("gauges", "metrics"),
    ("gc", "background, collect"),
    ("given", "requested, raw, values"),
    ("joint", "single flight"),
    ("known", "the name of what is known: owners, records, metadata"),
    ("landing", "permit"),
    ("life", "lifetime, start time"),
    ("look", "load, detect, stat, list"),
    ("node", "device node"),
    ("say", "emit, send"),
    ("settle", "sync, wait"),
    ("turns", "keyed lock"),
    ("wish", "stop request"),
];

/// Files with a name that is the field's own word there.
const EXCEPTIONS: [(&str, &str, &str); 3] = [
    ("sandbox/src/network/dns/", "answer", "DNS messages have questions and answers"),
    ("sandbox/src/network/dns/", "question", "DNS messages have questions and answers"),
    ("sandbox/src/network/cni/template.rs", "node", "a node of the parsed template"),
];

#[test]
fn names_are_the_words_of_the_field() {
    let mut found = Vec::new();
    for file in product() {
        let is_exempt = |word: &str| {
            EXCEPTIONS.iter().any(|(path, exempt, _)| file.path.starts_with(path) && *exempt == word)
        };
        for name in file.product().lines().filter_map(declared) {
            let parts = parts(name);
            let of_part =
                |(word, _): &&(&str, &str)| parts.len() <= 3 && parts.iter().any(|part| part == word);
            let of_name = |(word, _): &&(&str, &str)| parts == [*word];
            let bad = PARTS.iter().find(of_part).or_else(|| NAMES.iter().find(of_name));
            if let Some((word, instead)) = bad.filter(|(word, _)| !is_exempt(word)) {
                found.push(format!("{}: {name}: for {word:?}, one of: {instead}", file.path));
            }
        }
    }
    assert_eq!(found, super::NONE);
}

/// The name that a line declares.
fn declared(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.trim_start().split(' ').collect();
    let kinds = ["struct", "enum", "type", "trait", "fn", "mod"];
    // After `pub`, `async`, `const` and the like.
    let at = words.iter().take(5).position(|word| kinds.contains(word))?;
    if line.trim_start().starts_with("//") {
        return None;
    }
    let name = words.get(at + 1)?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    Some(&name[..end]).filter(|name| !name.is_empty())
}

/// `LastAnswer` and `last_answer` are `last` and `answer`.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            parts.push(String::new());
        }
        if let Some(last) = parts.last_mut().filter(|_| c != '_') {
            last.extend(c.to_lowercase());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[test]
fn parts_of_names() {
    assert_eq!(declared("    pub(super) async fn ask_plugin(&self)"), Some("ask_plugin"));
    assert_eq!(declared("/// The fn ask"), None);
    assert_eq!(parts("ask_plugin"), ["ask", "plugin"]);
    assert_eq!(parts("LastAnswer"), ["last", "answer"]);
}
