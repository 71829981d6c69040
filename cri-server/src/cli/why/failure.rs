//! Explains failures of operations: the kind of cause in words, then the error itself.

use crisp_proto::crisp::v1::JournalEntry;

use super::story::trying;

/// A kind of cause: the failures that it matches, and its explanation.
struct Kind {
    operation: &'static str,
    /// None matches any stage.
    stage: Option<&'static str>,
    /// The error contains one of these; the first kind that matches is used.
    words: &'static [&'static str],
    meaning: &'static str,
}

const fn kind(
    operation: &'static str,
    stage: Option<&'static str>,
    words: &'static [&'static str],
    meaning: &'static str,
) -> Kind {
    Kind { operation, stage, words, meaning }
}

const ANY: &[&str] = &[""];

const KINDS: &[Kind] = &[
    kind(
        "pull_image",
        None,
        &["401", "403", "denied", "unauthorized", "authentication required"],
        "the registry does not let this user have the image",
    ),
    kind("pull_image", None, &["not found", "404", "unknown"], "the image was not found"),
    kind("pull_image", None, &["No space left", "disk is full"], "the disk is full"),
    kind("create_container", None, &["is not present"], "the image is not here and was not pulled"),
    kind(
        "create_container",
        None,
        &["exists already as"],
        "its name is taken by an earlier one that was not removed",
    ),
    kind("create_container", None, &["No space left", "disk is full"], "the disk is full"),
    kind("create_container", None, &["seccomp"], "its seccomp profile cannot be read"),
    kind("create_container", None, &["devices["], "a device is missing on the host"),
    kind("create_container", None, &["is not in the image's"], "the image has no such user or group"),
    kind("start_container", None, &["seccomp"], "its seccomp profile cannot be read"),
    kind("start_container", None, &["devices["], "a device is missing on the host"),
    kind("start_container", None, &["is not in the image's"], "the image has no such user or group"),
    kind(
        "start_container",
        Some("monitor"),
        &["exec format error"],
        "its command is not a program for this host",
    ),
    kind(
        "start_container",
        Some("monitor"),
        &["working directory"],
        "its working directory cannot be entered",
    ),
    kind(
        "start_container",
        Some("monitor"),
        &["no such file", "No such file", "not found in $PATH", "is missing in the image"],
        "command not found: its command is not in the image",
    ),
    kind("start_container", Some("monitor"), &["ermission denied"], "its command may not be executed"),
    kind("start_container", Some("compile"), &["mounts["], "what is to be mounted cannot be had"),
    kind("run_pod", None, &["exists already as"], "its name is taken by an earlier one that was not removed"),
    kind("run_pod", None, &["is already in use by"], "another program or pod has its host port"),
    kind(
        "run_pod",
        None,
        &["sysctl", "/proc/sys/"],
        "a kernel setting (sysctl) that it asks for cannot be made",
    ),
    kind("run_pod", Some("network"), &["CNI plugin"], "a CNI plugin failed"),
    kind("run_pod", Some("network"), ANY, "the pod got no network"),
];

const LATE: [&str; 3] = ["not done after", "did not respond", "no answer within"];

/// The failed operation, the kind of its cause, and the error itself.
pub fn failure(entry: &JournalEntry) -> String {
    let operation = entry.operation.clone().unwrap_or_default();
    let (text, stage) = (entry.text.as_str(), operation.stage.as_str());
    let has = |words: &[&str]| words.iter().any(|word| has_word(text, word));
    let fits = |kind: &&Kind| {
        kind.operation == operation.name && kind.stage.is_none_or(|wanted| wanted == stage) && has(kind.words)
    };
    let meaning = if has(&LATE) {
        format!("the stage {stage} was not done in time: ")
    } else {
        KINDS.iter().find(fits).map_or_else(String::new, |kind| format!("{}: ", kind.meaning))
    };
    let stage = if stage.is_empty() { String::new() } else { format!(" (stage {stage})") };
    format!("{} failed{stage}: {meaning}{text}", trying(entry))
}

/// A number must stand alone: ports and digests contain digits too.
fn has_word(text: &str, word: &str) -> bool {
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.contains(word);
    }
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != ':')
        .any(|part| part.trim_end_matches(':') == word)
}
