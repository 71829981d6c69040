//! The last output of a hook, for the error of one that fails.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, ioctl_fionbio, read};

/// Bytes that are kept.
const KEPT: usize = 2 << 10;

/// The reading end of a pipe, and its last bytes.
pub(super) struct Output {
    pipe: Option<OwnedFd>,
    last: Vec<u8>,
}

impl Output {
    pub(super) fn new(pipe: OwnedFd) -> Result<Self, Errno> {
        ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe: Some(pipe), last: Vec::new() })
    }

    /// None when no process can write any more.
    pub(super) fn pipe(&self) -> Option<impl AsFd + use<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is there, up to the content of a pipe: a hook that writes without end must not delay the caller.
    pub(super) fn read(&mut self) {
        const READS: usize = 16;
        let Some(pipe) = &self.pipe else { return };
        let mut buffer = [0; 4 << 10];
        for _ in 0..READS {
            match read(pipe, &mut buffer) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(0) | Err(_) => {
                    self.pipe = None;
                    return;
                }
                Ok(count) => keep(&mut self.last, &buffer[..count]),
            }
        }
    }

    /// As one line; control characters would change a terminal.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.last);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.join("; ").replace(char::is_control, " ")
    }
}

fn keep(last: &mut Vec<u8>, bytes: &[u8]) {
    last.extend_from_slice(bytes);
    let excess = last.len().saturating_sub(KEPT);
    last.drain(..excess);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_output_is_kept() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut output = Output::new(reader).unwrap();
        rustix::io::write(&writer, b"first\n").unwrap();
        rustix::io::write(&writer, &[b'x'; 3000]).unwrap();
        rustix::io::write(&writer, b"\n\nthe \x1b[1mend\n").unwrap();
        output.read();
        assert!(output.pipe().is_some());
        drop(writer);
        output.read();
        assert!(output.pipe().is_none());
        let text = output.text();
        assert!(text.starts_with("xxx") && text.ends_with("x; the  [1mend"), "{text}");
        assert!(text.len() <= KEPT, "{}", text.len());
    }
}
