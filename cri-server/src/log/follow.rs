//! Reads a log file that grows and is rotated: `0.log` becomes `0.log.1`, that `0.log.2`, and so on.

use std::fs::{File, Metadata};
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

    /// Also reads the rotated files that are kept, from the oldest one on.
    ///
    /// # Errors
    /// The oldest one cannot be opened.
    pub fn with_rotated(path: &Path) -> io::Result<Self> {
        let mut follower = Self::new(path);
        while let Some((oldest, there)) = kept(path).last() {
            follower.file = open(&numbered(path, oldest))?;
            // A rotation may have renamed it meanwhile.
            if is(follower.file.as_ref(), &there)? {
                break;
            }
        }
        Ok(follower)
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
        while !self.read_open_file(each)? {
            let Some(next) = self.next_file()? else { return Ok(false) };
            // The text that was written between the end of the last read and the rotation.
            if self.read_open_file(each)? {
                return Ok(true);
            }
            self.close();
            self.file = Some(next);
        }
        Ok(true)
    }

    /// Passes on the lines that exist now; lines that are added meanwhile may be left out.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_what_is_there(&mut self, each: &mut impl FnMut(Line) -> io::Result<()>) -> io::Result<()> {
        let files = metadata(&self.path).into_iter().chain(kept(&self.path).map(|(_, file)| file));
        // Each file ends with a part of a piece.
        let mut left: u64 = files.map(|file| file.len() / CHUNK as u64 + 1).sum();
        left += self.unread()? / CHUNK as u64 + 1;
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
        if let Some(next) = self.next_file()? {
            is_cut = self.unread()? > 0;
            self.close();
            self.file = Some(next);
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
            self.file = open(&self.path)?;
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

    /// The file that the container wrote to after the open one. None while that may still grow: it is at the path, or
    /// there is no other one with content.
    fn next_file(&self) -> io::Result<Option<File>> {
        let Some(file) = &self.file else { return Ok(None) };
        let open_file = identity(&file.metadata()?);
        let is_open = |path: &Path| metadata(path).is_some_and(|there| identity(&there) == open_file);
        if is_open(&self.path) {
            return Ok(None);
        }
        loop {
            let kept: Vec<_> = kept(&self.path).collect();
            let present = kept.iter().position(|(_, file)| identity(file) == open_file);
            // Without it, the file was deleted, or has another kind of name: that of a kubelet's rotation.
            let newer = present.and_then(|index| index.checked_sub(1)).map(|newer| &kept[newer]);
            let next = numbered(&self.path, newer.map_or(0, |(number, _)| *number));
            let opened = open(&next)?;
            // Another rotation may have moved all of them meanwhile, or some.
            if present.is_some_and(|index| !is_open(&numbered(&self.path, kept[index].0)))
                || newer.is_some_and(|(_, there)| !is(opened.as_ref(), there).unwrap_or(false))
            {
                continue;
            }
            return Ok(match opened {
                Some(file) if next != self.path || file.metadata()?.len() > 0 => Some(file),
                _ => None,
            });
        }
    }
}

/// The rotated files, the newest first. In the middle of a rotation one number is missing.
fn kept(log: &Path) -> impl Iterator<Item = (usize, Metadata)> {
    let mut missing = 0;
    let each = move |number| {
        let file = metadata(&numbered(log, number));
        missing = if file.is_some() { 0 } else { missing + 1 };
        (missing < 2).then(|| file.map(|file| (number, file)))
    };
    (1..).map_while(each).flatten()
}

/// `0.log.1`; 0 is the log itself.
fn numbered(log: &Path, number: usize) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name.into()
}

/// None when there is no such file.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn metadata(path: &Path) -> Option<Metadata> {
    std::fs::metadata(path).ok()
}

fn is(file: Option<&File>, there: &Metadata) -> io::Result<bool> {
    let file = file.map(File::metadata).transpose()?;
    Ok(file.is_some_and(|file| identity(&file) == identity(there)))
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
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
    fn kept_files_come_first_and_none_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), line(text)).unwrap();
        let rotate = || {
            for number in (0..4).rev() {
                let _ = std::fs::rename(numbered(&path, number), numbered(&path, number + 1));
            }
        };
        write("0.log.2", "one");
        write("0.log.1", "two");
        write("0.log", "three");
        let mut follower = Follower::with_rotated(&path).unwrap();
        assert_eq!(read(&mut follower), ["one", "two", "three"]);
        for text in ["four", "five"] {
            rotate();
            write("0.log", text);
        }
        assert_eq!(read(&mut follower), ["four", "five"]);
        rotate();
        assert!(read(&mut follower).is_empty());
        write("0.log", "six");
        assert_eq!(read(&mut follower), ["six"]);
        let mut count = 0;
        let mut each = |_| {
            count += 1;
            Ok(())
        };
        Follower::with_rotated(&path).unwrap().read_what_is_there(&mut each).unwrap();
        assert_eq!(count, 5);
    }

    #[test]
    fn a_missing_number_hides_no_kept_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for (number, text) in [(0, "three"), (2, "two"), (3, "one")] {
            std::fs::write(numbered(&path, number), format!("t stdout F {text}\n")).unwrap();
        }
        assert_eq!(read(&mut Follower::with_rotated(&path).unwrap()), ["one", "two", "three"]);
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
