//! The last message of a container that has ended.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::context::Context;
use super::manifest::Container;
use crate::log::Line;
use crate::server::layout;

/// The same limit as kubelet's.
const MOST: u64 = 4096;
const MOST_OF_LOG: u64 = 2048;
const LAST_LINES: usize = 80;

/// The content of its terminationMessagePath, or the end of its log if the manifest requests that.
pub fn message(context: &Context, container: &Container, log: &Path, code: i32) -> Option<String> {
    let path = layout::run_message(&context.folder, &container.name);
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(&path) {
        file.take(MOST).read_to_end(&mut bytes).ok()?;
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() && code != 0 && container.message_from_log {
        return end_of_log(log).filter(|text| !text.is_empty());
    }
    Some(text).filter(|text| !text.is_empty())
}

fn end_of_log(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let size = file.metadata().ok()?.len();
    // Each line begins with a time and a stream.
    file.seek(SeekFrom::Start(size.saturating_sub(MOST_OF_LOG * 4))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').filter_map(Line::parse).collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    let text: Vec<String> =
        last.iter().map(|line| String::from_utf8_lossy(&line.content).into_owned()).collect();
    let text = text.join("\n");
    let from = text.len().saturating_sub(MOST_OF_LOG as usize);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    Some(text[from..].trim().to_owned())
}
