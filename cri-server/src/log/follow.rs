//! Reads a log file that grows and is rotated.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Line;

const CHUNK: usize = 64 * 1024;

/// Reads a container's log from its beginning to its present end, repeatedly.
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    /// Whether the text up to the next newline is not a whole line.
    in_middle: bool,
}

impl Follower {
    /// Follows the file at `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, rest: Vec::new(), in_middle: false }
    }

    /// Whether the folder of the log is there.
    pub fn has_folder(&self) -> bool {
        self.path.parent().is_none_or(Path::is_dir)
    }

    /// Passes the whole lines of the next piece of the log to `each`. Invalid lines are left out. Returns
    /// whether there was anything: a container that writes fast always gives more.
    ///
    /// # Errors
    /// The file cannot be read. A missing file is no error.
    pub fn read(&mut self, each: &mut impl FnMut(Line) -> io::Result<()>) -> io::Result<bool> {
        if self.read_open_file(each)? {
            return Ok(true);
        }
        if !self.is_rotated()? {
            return Ok(false);
        }
        // The text that was written between the end of the last read and the rotation.
        if self.read_open_file(each)? {
            return Ok(true);
        }
        self.close();
        self.read_open_file(each)
    }

    /// Passes on the lines that exist now; lines that are added meanwhile may be left out.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_what_is_there(&mut self, each: &mut impl FnMut(Line) -> io::Result<()>) -> io::Result<()> {
        let there = std::fs::metadata(&self.path).map_or(0, |there| there.len());
        // After a rotation, the rest of the open file comes first. Each file ends with a part of a piece.
        let mut left = (there + self.unread()?) / CHUNK as u64 + 2;
        while left > 0 && self.read(each)? {
            left -= 1;
        }
        Ok(())
    }

    /// Skips all but the last `length` bytes. Returns whether there was more.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn skip_to_last(&mut self, length: u64) -> io::Result<bool> {
        let mut is_cut = false;
        if self.is_rotated()? {
            is_cut = self.unread()? > 0;
            self.close();
        }
        let unread = self.unread()?;
        if unread > length
            && let Some(file) = self.opened()?
        {
            file.seek_relative(i64::try_from(unread - length).unwrap_or(i64::MAX))?;
            self.rest.clear();
            self.in_middle = true;
            is_cut = true;
        }
        Ok(is_cut)
    }

    /// Unread bytes of the open file.
    fn unread(&mut self) -> io::Result<u64> {
        let Some(file) = self.opened()? else { return Ok(0) };
        Ok(file.metadata()?.len().saturating_sub(file.stream_position()?))
    }

    /// The inode of the file that is being read; 0 for none.
    pub fn inode(&self) -> u64 {
        self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |file| file.ino())
    }

    fn opened(&mut self) -> io::Result<Option<&mut File>> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        Ok(self.file.as_mut())
    }

    fn close(&mut self) {
        self.file = None;
        self.rest.clear();
        self.in_middle = false;
    }

    /// Reads one piece.
    fn read_open_file(&mut self, each: &mut impl FnMut(Line) -> io::Result<()>) -> io::Result<bool> {
        let Some(file) = self.opened()? else { return Ok(false) };
        let mut chunk = vec![0; CHUNK];
        let n = file.read(&mut chunk)?;
        if n == 0 {
            return Ok(false);
        }
        self.rest.extend_from_slice(&chunk[..n]);
        let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else { return Ok(true) };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        let broken = usize::from(std::mem::take(&mut self.in_middle));
        for line in lines[..end].split(|b| *b == b'\n').skip(broken).filter_map(Line::parse) {
            each(line)?;
        }
        Ok(true)
    }

    /// Whether there is another file at the path with content: until then the container may still write to
    /// the rotated file.
    fn is_rotated(&self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let open = file.metadata()?;
        Ok(match std::fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) != (open.dev(), open.ino()) && there.len() > 0,
            // Rotated, but the new file does not exist yet.
            Err(_) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(follower: &mut Follower) -> Vec<String> {
        let mut lines = Vec::new();
        let mut each = |line: Line| {
            lines.push(String::from_utf8_lossy(&line.content).into_owned());
            Ok(())
        };
        while follower.read(&mut each).unwrap() {}
        lines
    }

    #[test]
    fn whole_lines_come_once_and_in_order_over_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut follower = Follower::new(&path);
        assert!(read(&mut follower).is_empty());

        let mut file = File::create(&path).unwrap();
        write!(file, "t stdout F one\nt stdout F tw").unwrap();
        assert_eq!(read(&mut follower), ["one"]);
        writeln!(file, "o").unwrap();
        assert_eq!(read(&mut follower), ["two"]);

        std::fs::rename(&path, folder.path().join("0.log.old")).unwrap();
        writeln!(file, "t stdout F three").unwrap();
        std::fs::write(&path, "t stdout F four\n").unwrap();
        assert_eq!(read(&mut follower), ["three", "four"]);
    }

    #[test]
    fn lines_that_a_rotated_file_still_gets_are_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut follower = Follower::new(&path);
        let mut file = File::create(&path).unwrap();
        writeln!(file, "t stdout F one").unwrap();
        assert_eq!(read(&mut follower), ["one"]);
        std::fs::rename(&path, folder.path().join("0.log.old")).unwrap();
        // The server makes the file before it tells the container of it.
        let mut next = File::create(&path).unwrap();
        assert!(read(&mut follower).is_empty());
        writeln!(file, "t stdout F two").unwrap();
        writeln!(next, "t stdout F three").unwrap();
        assert_eq!(read(&mut follower), ["two", "three"]);
    }

    #[test]
    fn what_is_there_includes_the_rest_of_a_rotated_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut file = File::create(&path).unwrap();
        writeln!(file, "t stdout F 0").unwrap();
        let mut follower = Follower::new(&path);
        assert_eq!(read(&mut follower), ["0"]);
        let text: String = (1..100_000).map(|n| format!("t stdout F {n}\n")).collect();
        file.write_all(text.as_bytes()).unwrap();
        std::fs::rename(&path, folder.path().join("0.log.old")).unwrap();
        std::fs::write(&path, "t stdout F last\n").unwrap();
        let mut lines = Vec::new();
        let mut each = |line: Line| {
            lines.push(String::from_utf8_lossy(&line.content).into_owned());
            Ok(())
        };
        follower.read_what_is_there(&mut each).unwrap();
        let expected = (1..100_000).map(|n| n.to_string()).chain(["last".to_owned()]);
        assert!(lines.into_iter().eq(expected));
    }

    #[test]
    fn one_reading_ends_whatever_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        std::fs::write(&path, "t stdout F line\n".repeat(100_000)).unwrap();
        let mut follower = Follower::new(&path);
        let mut count = 0;
        let mut each = |_| {
            count += 1;
            Ok(())
        };
        assert!(follower.read(&mut each).unwrap());
        assert!(count > 0 && count < 10_000, "{count}");
    }

    #[test]
    fn the_last_part_begins_with_a_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let text: String = (0..1000).map(|n| format!("t stdout F {n}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let mut follower = Follower::new(&path);
        assert!(follower.skip_to_last(20).unwrap());
        assert_eq!(read(&mut follower), ["999"]);
        assert!(!follower.skip_to_last(20).unwrap());
    }
}
