//! Writes the two files of the journal.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};

use crate::layout::Layout;

/// Bytes of one file.
const MAX_FILE: u64 = 8 << 20;

/// Appends lines; blocks.
pub(super) struct JournalFile {
    layout: Layout,
    max: u64,
    /// Whether the file is known to end with a whole line.
    is_whole: bool,
    is_failing: bool,
}

impl JournalFile {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, max: MAX_FILE, is_whole: false, is_failing: false }
    }

    /// Appends whole lines. Logs the first of several failures. Returns false when the lines are lost.
    pub(super) fn append(&mut self, lines: &str) -> bool {
        let written = self.try_append(lines);
        match &written {
            Ok(()) if self.is_failing => tracing::info!("the journal of events is written again"),
            Err(error) if !self.is_failing => {
                let path = self.layout.journal();
                tracing::warn!(path = %path.display(), %error, "events are not kept: the journal cannot be written");
            }
            Ok(()) | Err(_) => {}
        }
        self.is_failing = written.is_err();
        written.is_ok()
    }

    /// Opens the file each time, so that it may be deleted or truncated meanwhile.
    fn try_append(&mut self, lines: &str) -> io::Result<()> {
        let mut file = self.open()?;
        let mut length = file.metadata()?.len();
        if length > 0 && length + lines.len() as u64 > self.max {
            fs::rename(self.layout.journal_file(), self.layout.older_journal_file())?;
            file = self.open()?;
            length = 0;
        }
        // Left by a server that was killed, or by a full disk.
        let is_cut = length > 0 && !self.is_whole && last_byte(&file, length)? != b'\n';
        self.is_whole = false;
        if is_cut {
            file.write_all(b"\n")?;
        }
        file.write_all(lines.as_bytes())?;
        self.is_whole = true;
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        let path = self.layout.journal_file();
        let open = || OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(self.layout.journal())?;
                open()
            }
            opened => opened,
        }
    }
}

fn last_byte(file: &File, length: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, length - 1)?;
    Ok(byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(layout: &Layout) -> String {
        fs::read_to_string(layout.journal_file()).unwrap()
    }

    #[test]
    fn files_rotate_at_their_bound() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let mut file = JournalFile { max: 10, ..JournalFile::new(layout.clone()) };
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            assert!(file.append(line));
        }
        assert_eq!(text(&layout), "four\n");
        assert_eq!(fs::read_to_string(layout.older_journal_file()).unwrap(), "three\n");
    }

    #[test]
    fn a_line_follows_a_cut_one_on_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        assert!(JournalFile::new(layout.clone()).append("one\n"));
        fs::write(layout.journal_file(), "one\ncu").unwrap();
        assert!(JournalFile::new(layout.clone()).append("two\n"));
        assert_eq!(text(&layout), "one\ncu\ntwo\n");
    }

    #[test]
    fn a_disk_that_refuses_loses_lines_and_later_ones_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        fs::write(layout.journal(), "a file in its place").unwrap();
        let mut file = JournalFile::new(layout.clone());
        assert!(!file.append("one\n") && !file.append("two\n"));
        fs::remove_file(layout.journal()).unwrap();
        assert!(file.append("three\n"));
        assert_eq!(text(&layout), "three\n");
    }
}
