//! Converts output to records, one for each line.

use crate::clock::{self, STAMP_LEN};
use crate::sys;

use super::Stream;

/// Longest text of one record; a longer line becomes several, all but the last marked P.
pub(super) const LONGEST: usize = 16 << 10;

const NAME_LEN: usize = " stdout ".len();

/// The start of every record of one batch: `<time> <stream> `.
pub(super) struct Prefix([u8; STAMP_LEN + NAME_LEN]);

impl Prefix {
    pub(super) fn new(ns: i64, stream: Stream) -> Self {
        let mut prefix = [0; STAMP_LEN + NAME_LEN];
        let (time, name) = prefix.split_at_mut(STAMP_LEN);
        if let Ok(time) = time.try_into() {
            clock::stamp(ns, time);
        }
        name.copy_from_slice(match stream {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        });
        Self(prefix)
    }
}

/// The lines of one stream.
#[derive(Default)]
pub(super) struct Lines {
    /// A line whose end has not come yet; shorter than [`LONGEST`].
    begun: Vec<u8>,
}

impl Lines {
    /// Makes records of `output` until `records` holds `enough`, and returns what is left of it.
    pub(super) fn take<'a>(
        &mut self,
        output: &'a [u8],
        prefix: &Prefix,
        enough: usize,
        records: &mut Vec<u8>,
    ) -> &'a [u8] {
        let mut left = output;
        while !left.is_empty() && records.len() < enough {
            let room = LONGEST - self.begun.len();
            // One byte more than fits: a line of exactly the longest length is whole.
            let window = &left[..left.len().min(room + 1)];
            match sys::find(b'\n', window) {
                Some(end) => {
                    self.record(prefix, b'F', &left[..end], records);
                    left = &left[end + 1..];
                }
                None if window.len() > room => {
                    self.record(prefix, b'P', &left[..room], records);
                    left = &left[room..];
                }
                None => {
                    self.begun.extend_from_slice(left);
                    left = &[];
                }
            }
        }
        left
    }

    /// A line without its end is not full.
    pub(super) fn finish(&mut self, prefix: &Prefix, records: &mut Vec<u8>) {
        if !self.begun.is_empty() {
            self.record(prefix, b'P', &[], records);
        }
    }

    fn record(&mut self, prefix: &Prefix, tag: u8, text: &[u8], records: &mut Vec<u8>) {
        records.reserve(prefix.0.len() + 3 + self.begun.len() + text.len());
        records.extend_from_slice(&prefix.0);
        records.extend_from_slice(&[tag, b' ']);
        if !self.begun.is_empty() {
            records.extend_from_slice(&self.begun);
            // Freed, not kept: hundreds of quiet streams must not keep 16 KiB each.
            self.begun = Vec::new();
        }
        records.extend_from_slice(text);
        records.push(b'\n');
    }
}
