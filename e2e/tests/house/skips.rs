//! A test that leaves early by itself is a pass that nothing counts.
//!
//! ```text
//!   fn test() {
//!       if CONDITION { return; }          CONDITION, EXPRESSION: a macro or function of crisp_skip, or one of ours
//!       let .. = EXPRESSION else { return };                     that calls such a one
//! ```

use std::collections::HashSet;

use crate::NONE;
use crate::sources::{Source, all};

const MACROS: [&str; 3] = ["crisp_skip::", "needs!(", "unsupported!("];

/// A function as it is written, without its indentation.
struct Function<'a> {
    name: &'a str,
    is_test: bool,
    body: Vec<&'a str>,
}

fn functions(text: &str) -> Vec<Function<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let modifiers = code.split("fn ").next().unwrap_or_default();
        let is_function = modifiers.split_whitespace().all(|word| {
            word.starts_with("pub")
                || ["async", "const", "crate)", "super)"].contains(&word)
                || word == "unsafe"
        });
        let Some((_, rest)) = code.split_once("fn ").filter(|_| is_function) else { continue };
        let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let indentation = &line[..line.len() - code.len()];
        let end = format!("{indentation}}}");
        let inner = lines[at + 1..].iter().take_while(|line| **line != end);
        let body = inner.map(|line| line.strip_prefix(indentation).unwrap_or(line)).collect();
        let attributes = lines[..at].iter().rev().take_while(|line| line.trim_start().starts_with("#["));
        let is_test = attributes.into_iter().any(|line| line.contains("test]") || line.contains("::test("));
        found.push(Function { name, is_test, body });
    }
    found
}

fn skips(line: &str, known: &HashSet<&str>) -> bool {
    let calls = |(at, _): (usize, &str)| {
        let name = line[..at].rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
        name.is_some_and(|name| known.contains(name))
    };
    MACROS.iter().any(|word| line.contains(word)) || line.match_indices('(').any(calls)
}

/// The functions that report a skip, and those that pass it on.
fn reporting<'a>(functions: &[Function<'a>]) -> HashSet<&'a str> {
    let mut known = HashSet::new();
    loop {
        let passes_on = |line: &str, known: &HashSet<&str>| {
            MACROS.iter().any(|word| line.contains(word))
                || (line.contains("else { return") || line.contains('?')) && skips(line, known)
        };
        let more = functions.iter().filter(|function| !function.is_test && !known.contains(function.name));
        let more: Vec<&str> = more
            .filter(|function| function.body.iter().any(|line| passes_on(line, &known)))
            .map(|function| function.name)
            .collect();
        if more.is_empty() {
            return known;
        }
        known.extend(more);
    }
}

/// The lines by which a test leaves without a word.
fn silent<'a>(function: &Function<'a>, known: &HashSet<&str>) -> Vec<&'a str> {
    let nothing = ["return;", "return Ok(());", "return None;", "return"];
    let mut found = Vec::new();
    for pair in function.body.windows(2) {
        let returns = pair[1].starts_with("        return") && nothing.contains(&pair[1].trim());
        if pair[0].starts_with("    if ") && returns && !skips(pair[0], known) {
            found.push(pair[0]);
        }
    }
    let leaves = ["else { return };", "else { return Ok(()) };", "else { return None };"];
    let lines = function.body.iter().filter(|line| line.starts_with("    let "));
    found.extend(
        lines.filter(|line| leaves.iter().any(|leaves| line.ends_with(leaves)) && !skips(line, known)),
    );
    found
}

fn offenders(files: &[Source]) -> Vec<String> {
    let functions: Vec<_> =
        files.iter().flat_map(|file| functions(&file.text).into_iter().map(move |f| (file, f))).collect();
    let known = {
        let all: Vec<_> = files.iter().flat_map(|file| self::functions(&file.text)).collect();
        reporting(&all)
    };
    let tests = functions.iter().filter(|(_, function)| function.is_test);
    let found = tests.flat_map(|(file, function)| {
        let lines = silent(function, &known).into_iter();
        lines.map(|line| format!("{}: {}: {}", file.path, function.name, line.trim()))
    });
    found.collect()
}

#[test]
fn tests_are_skipped_in_one_way() {
    // In two pieces: this file is searched too.
    let words = [concat!("\"skip", "ped: "), concat!("\"SKIP", "PED: ")];
    let files = all();
    let by_words = files
        .iter()
        .filter(|file| !file.path.starts_with("metrics/skip/"))
        .filter(|file| words.iter().any(|word| file.text.contains(word)))
        .map(|file| file.path.clone());
    let found: Vec<_> = by_words.chain(offenders(&files)).collect();
    assert_eq!(found, NONE, "skip by crisp_skip::needs! or crisp_skip::unsupported!");
}

#[test]
fn a_test_that_leaves_without_a_word_is_found() {
    let text = r#"
fn machine() -> Option<Machine> {
    crisp_skip::needs!("mount");
    Some(Machine)
}

fn filled() -> Option<Filled> {
    let machine = machine()?;
    Some(machine.filled())
}

#[test]
fn counted() {
    let Some(filled) = filled() else { return };
    if crisp_skip::lacks(&["mount"]) {
        return;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_condition() -> Result<()> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(());
    }
    loop {
        if works() {
            return Ok(());
        }
    }
}

#[test]
fn by_pattern() {
    let Ok(file) = File::open("/dev/fuse") else { return };
}
"#;
    let file = Source { path: "x.rs".to_owned(), text: text.to_owned() };
    let expected = [
        r#"x.rs: by_condition: if !Path::new("/dev/kvm").exists() {"#,
        r#"x.rs: by_pattern: let Ok(file) = File::open("/dev/fuse") else { return };"#,
    ];
    assert_eq!(offenders(&[file]), expected);
}
