//! Words that a second-language reader trips over, in code, comments, help and documentation.

use super::sources::{all, root};

const FORBIDDEN: [&str; 6] =
    ["nobody", "whoever", "somebody", concat!("away", " again"), concat!("held", " against"), "the word of"];

/// The user 65534 has that name.
const USERS: [&str; 3] = ["nobody:", "\"nobody\"", "nobody-here"];

/// How many each part of the project still has. Numbers only get smaller, down to 0.
const LEFT: [(&str, usize); 8] = [
    ("cri-server/", 0),
    ("image-service/", 0),
    ("metrics/", 0),
    ("proto/", 0),
    ("runtime-service/", 0),
    ("sandbox/executor/", 0),
    ("sandbox/monitor/", 0),
    ("sandbox/", 0),
];

#[test]
fn forbidden_words_get_fewer() {
    let mut counts = LEFT.map(|(folder, _)| (folder, 0, Vec::new()));
    let mut elsewhere = Vec::new();
    for file in all().iter().filter(|file| !file.path.ends_with("house/words.rs")) {
        let found = occurrences(&file.text);
        match counts.iter_mut().find(|(folder, ..)| file.path.starts_with(folder)) {
            Some((_, count, places)) if found > 0 => {
                *count += found;
                places.push(format!("{} ({found})", file.path));
            }
            None if found > 0 => elsewhere.push(file.path.clone()),
            _ => {}
        }
    }
    assert_eq!(elsewhere, super::NONE);
    for ((folder, count, places), (_, left)) in counts.iter().zip(LEFT) {
        assert!(*count <= left, "{folder} has {count} of {FORBIDDEN:?}, {left} at most: {places:?}");
    }
    for text in ["README.md", "e2e/demo.sh", "e2e/test.sh", "e2e/bench.sh"] {
        let text = std::fs::read_to_string(root().join(text)).expect(text);
        assert_eq!(occurrences(&text), 0);
    }
}

/// A doc comment says what a thing is or does. One that begins so is half of a sentence.
#[test]
fn doc_comments_are_sentences_or_nouns() {
    const HALVES: [&str; 3] = ["What", "Who", "Whose"];
    let mut found = Vec::new();
    for file in all() {
        let is_half = |line: &&str| {
            let line = line.trim_start();
            let comment = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! "));
            comment.and_then(|text| text.split(' ').next()).is_some_and(|word| HALVES.contains(&word))
        };
        found.extend(file.text.lines().filter(is_half).map(|line| format!("{}: {line}", file.path)));
    }
    assert_eq!(
        found,
        super::NONE,
        "begin with the noun (\"The layers that ...\") or the verb (\"Removes ...\")"
    );
}

fn occurrences(text: &str) -> usize {
    let mut text = text.to_lowercase();
    USERS.iter().for_each(|user| text = text.replace(user, ""));
    // Across the ends of comment lines too.
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let text = format!(" {} ", words.join(" "));
    FORBIDDEN.iter().map(|word| text.matches(&format!(" {word} ")).count()).sum()
}
