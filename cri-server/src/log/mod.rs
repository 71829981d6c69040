//! Container logs in the CRI's form: `time stream tag content`, one line per line or part of a line.

mod follow;

pub use follow::Follower;

/// The stream of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the output to a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The time in the text of the file.
    pub time: String,
    /// The stream that it was written to.
    pub stream: Stream,
    /// Whether the line goes on in the next entry.
    pub partial: bool,
    /// The content without the newline. Any bytes.
    pub content: Vec<u8>,
}

impl Line {
    /// Parses a line without its newline; `None` when it is not a log line.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let mut parts = raw.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?.to_owned();
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // Tags are separated by colons; the first tells whether the line is partial, others are reserved.
        let partial = match parts.next()?.split(|b| *b == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        Some(Self { time, stream, partial, content: parts.next().unwrap_or_default().to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_every_byte_of_the_content() {
        let line = Line::parse(b"2026-01-01T00:00:00.000000001Z stderr P a b\xff ").unwrap();
        assert_eq!(line.stream, Stream::Stderr);
        assert!(line.partial);
        assert_eq!(line.content, b"a b\xff ");
        let empty = Line::parse(b"2026-01-01T00:00:00Z stdout F ").unwrap();
        assert!(!empty.partial && empty.content.is_empty());
        for raw in [&b""[..], b"x", b"t stdin F x", b"t stdout X x"] {
            assert_eq!(Line::parse(raw), None);
        }
    }
}
