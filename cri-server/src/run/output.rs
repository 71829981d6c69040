//! The containers' logs on one screen: every line with its container's name.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::log::{Follower, Line, Stream};

/// How often a log file is looked at.
const TICK: Duration = Duration::from_millis(50);
/// A line longer than this is shown in pieces.
const LONGEST_LINE: usize = 1 << 20;
/// ANSI colours that are readable on dark and on light.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Writes the lines of one container.
#[derive(Debug, Clone)]
pub struct Printer {
    prefix: String,
    /// Beginnings of lines whose end is not written yet, by stream.
    open: [Vec<u8>; 2],
}

impl Printer {
    /// For the `index`th container; `width` is that of the longest name.
    pub fn new(name: &str, index: usize, width: usize) -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let prefix = if colour {
            format!("\x1b[{}m{name:width$} |\x1b[0m ", COLOURS[index % COLOURS.len()])
        } else {
            format!("{name:width$} | ")
        };
        Self { prefix, open: Default::default() }
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        let open = &mut self.open[usize::from(line.stream == Stream::Stderr)];
        open.extend_from_slice(&line.content);
        if line.partial && open.len() < LONGEST_LINE {
            return Ok(());
        }
        let mut text = Vec::with_capacity(self.prefix.len() + open.len() + 1);
        text.extend_from_slice(self.prefix.as_bytes());
        text.append(open);
        text.push(b'\n');
        // One write, so that lines of containers do not mix.
        match line.stream {
            Stream::Stdout => io::stdout().lock().write_all(&text),
            Stream::Stderr => io::stderr().lock().write_all(&text),
        }
    }
}

/// Prints a container's log until `ended` says that nothing more will come, and then to the file's end.
pub async fn follow(path: PathBuf, mut printer: Printer, ended: watch::Receiver<bool>) {
    let mut follower = Follower::new(&path);
    loop {
        // Read before the file: what is written before the end is then read after it. A sender that is gone
        // counts as an end.
        let last = *ended.borrow() || ended.has_changed().is_err();
        if let Err(error) = follower.read(&mut |line| printer.line(&line)) {
            if error.kind() != io::ErrorKind::BrokenPipe {
                tracing::warn!(path = %path.display(), %error, "cannot show a log");
            }
            return;
        }
        if last {
            return;
        }
        sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_line_are_put_together_per_stream() {
        let mut printer = Printer::new("web", 0, 5);
        assert!(printer.prefix.contains("web   |"), "{}", printer.prefix);
        let line = |stream, partial, content: &[u8]| Line {
            time: String::new(),
            stream,
            partial,
            content: content.into(),
        };
        printer.line(&line(Stream::Stdout, true, b"one ")).unwrap();
        printer.line(&line(Stream::Stderr, true, b"other ")).unwrap();
        assert_eq!(printer.open, [b"one ".to_vec(), b"other ".to_vec()]);
        printer.line(&line(Stream::Stdout, false, b"two")).unwrap();
        assert_eq!(printer.open, [Vec::new(), b"other ".to_vec()]);
    }
}
