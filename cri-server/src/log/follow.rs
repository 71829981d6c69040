//! Reading a log file that grows and is rotated under us.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Line;

const CHUNK: usize = 64 * 1024;

/// Reads a container's log from its beginning to where it is now, again and again.
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Follower {
    /// Of the file at `path`, which need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, rest: Vec::new() }
    }

    /// Hands out every whole line that was written since the last time. Lines that are no log lines are
    /// left out. Returns whether there was anything.
    ///
    /// # Errors
    /// The file cannot be read. A missing file is no error.
    pub fn read(&mut self, each: &mut impl FnMut(Line) -> io::Result<()>) -> io::Result<bool> {
        let mut any = self.read_open_file(each)?;
        // The log was rotated: the old file has been read to its end.
        if self.rotated()? {
            self.file = None;
            self.rest.clear();
            any |= self.read_open_file(each)?;
        }
        Ok(any)
    }

    fn read_open_file(&mut self, each: &mut impl FnMut(Line) -> io::Result<()>) -> io::Result<bool> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        let mut chunk = vec![0; CHUNK];
        let mut any = false;
        loop {
            let n = file.read(&mut chunk)?;
            if n == 0 {
                return Ok(any);
            }
            any = true;
            self.rest.extend_from_slice(&chunk[..n]);
            let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else { continue };
            let rest = self.rest.split_off(end + 1);
            let lines = std::mem::replace(&mut self.rest, rest);
            for line in lines[..end].split(|b| *b == b'\n').filter_map(Line::parse) {
                each(line)?;
            }
        }
    }

    fn rotated(&self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let open = file.metadata()?;
        Ok(match std::fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) != (open.dev(), open.ino()),
            // Rotated, and the new file does not exist yet.
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
        follower.read(&mut each).unwrap();
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
}
