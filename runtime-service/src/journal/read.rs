//! Reads the journal, on request only.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;

use super::entry::{Entry, MAX_LINE};
use crate::layout::Layout;

/// Reads all entries, the oldest first. Returns the number of damaged lines, which are skipped. Blocks.
///
/// # Errors
/// A file cannot be read.
pub(super) fn read(
    layout: &Layout,
    mut each: impl FnMut(Entry<'static>) -> ControlFlow<()>,
) -> io::Result<u64> {
    // The newer file is opened first: it may become the older one meanwhile.
    let newer = open(&layout.journal_file())?;
    let older = open(&layout.older_journal_file())?;
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let is_same = match (&newer, &older) {
        (Some(newer), Some(older)) => identity(newer)? == identity(older)?,
        _ => false,
    };
    let older = older.filter(|_| !is_same);
    let mut skipped = 0u64;
    for file in older.into_iter().chain(newer) {
        let (more, ended) = read_file(file, &mut each)?;
        skipped += more;
        if ended.is_break() {
            break;
        }
    }
    Ok(skipped)
}

fn open(path: &std::path::Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the number of damaged lines.
fn read_file(
    file: File,
    each: &mut impl FnMut(Entry<'static>) -> ControlFlow<()>,
) -> io::Result<(u64, ControlFlow<()>)> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let (mut line, mut skipped) = (Vec::new(), 0);
    while next_line(&mut reader, &mut line)? {
        let text = line.trim_ascii();
        match Entry::parse(text) {
            Some(entry) => {
                if each(entry).is_break() {
                    return Ok((skipped, ControlFlow::Break(())));
                }
            }
            None => skipped += u64::from(!text.is_empty()),
        }
    }
    Ok((skipped, ControlFlow::Continue(())))
}

/// The next line, truncated to the limit for lines. Returns false when there is none.
fn next_line(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut is_any = false;
    loop {
        let data = reader.fill_buf()?;
        if data.is_empty() {
            return Ok(is_any);
        }
        is_any = true;
        let end = data.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(data.len(), |end| end + 1);
        let room = (2 * MAX_LINE).saturating_sub(line.len());
        line.extend_from_slice(&data[..taken.min(room)]);
        reader.consume(taken);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Action;
    use super::super::file::JournalFile;
    use super::*;

    fn names(layout: &Layout) -> Vec<String> {
        let mut names = Vec::new();
        read(layout, |entry| {
            names.push(entry.name.into_owned());
            ControlFlow::Continue(())
        })
        .unwrap();
        names
    }

    fn line(name: &str) -> String {
        Entry { name: name.into(), action: Action::Start, ..Entry::default() }.line()
    }

    #[test]
    fn both_files_are_read_and_what_is_damaged_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        assert_eq!(names(&layout), [""; 0], "there is none");
        let mut file = JournalFile::new(layout.clone());
        file.append(&line("one"));
        std::fs::rename(layout.journal_file(), layout.older_journal_file()).unwrap();
        file.append(&line("two"));
        let mut damaged = std::fs::read(layout.journal_file()).unwrap();
        damaged.extend_from_slice(b"\x00\xff{\n\n");
        damaged.extend_from_slice(&vec![b'x'; 5 * MAX_LINE]);
        damaged.extend_from_slice(format!("\n{}{}", line("three"), &line("four")[..30]).as_bytes());
        std::fs::write(layout.journal_file(), damaged).unwrap();
        assert_eq!(names(&layout), ["one", "two", "three"]);
        JournalFile::new(layout.clone()).append(&line("five"));
        assert_eq!(names(&layout), ["one", "two", "three", "five"]);
    }
}
