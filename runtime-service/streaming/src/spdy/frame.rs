//! Encodes and decodes frames of SPDY/3.1. This module does no input or output.
//!
//! ```text
//!  control  |1| version 15 | type 16 | flags 8 | length 24 | fields
//!  data     |0| stream 31            | flags 8 | length 24 | bytes       big-endian
//! ```

use bytes::{Buf, Bytes, BytesMut};

use super::header_block::{Deflater, HeaderError, Headers, Inflater};

/// The longest control frame. Those of a kubelet have about 100 bytes.
const MAX_CONTROL: usize = 16 << 10;
const CONTROL: u32 = 1 << 31;
const VERSION: u32 = 3;
const FIN: u32 = 0x01;
const LENGTH: u32 = 0xff_ffff;

const SYN_STREAM: u32 = 1;
const SYN_REPLY: u32 = 2;
const RST_STREAM: u32 = 3;
const SETTINGS: u32 = 4;
const PING: u32 = 6;
const GOAWAY: u32 = 7;
const HEADERS: u32 = 8;
const WINDOW_UPDATE: u32 = 9;

/// The setting with the size of a new stream's window.
const INITIAL_WINDOW_SIZE: u32 = 7;

/// The reason why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ResetReason {
    ProtocolError = 1,
    InvalidStream = 2,
    RefusedStream = 3,
    Cancel = 5,
    FlowControl = 7,
    StreamAlreadyClosed = 9,
}

/// A frame of the peer. Frames that are ignored here (credentials, unknown types) do not appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    SynReply {
        stream: u32,
        fin: bool,
    },
    RstStream {
        stream: u32,
    },
    /// The window of new streams from now on.
    Settings {
        initial_window: Option<u32>,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// More headers of a stream. Only `fin` matters here.
    Headers {
        stream: u32,
        fin: bool,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// A piece of a data frame; `fin` is set only in the last piece.
    Data {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
}

/// Bytes that are not SPDY. They end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a control frame of {length} bytes is longer than {MAX_CONTROL}")]
    TooLong { length: usize },
    #[error("a control frame of SPDY version {version}, expected 3")]
    Version { version: u32 },
    #[error("a frame of type {kind} is cut short or names stream 0")]
    Malformed { kind: u32 },
    #[error(transparent)]
    Headers(#[from] HeaderError),
}

/// Decodes the frames of one connection.
#[derive(Default)]
pub struct Decoder {
    inflater: Inflater,
    /// The unfinished data frame: stream, remaining bytes, fin.
    data: Option<(u32, usize, bool)>,
}

impl Decoder {
    /// Takes the next frame, or a piece of a data frame, out of `input`. Returns None when it needs more
    /// input.
    ///
    /// # Errors
    /// [`FrameError`], after which no further frame can be read.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(data) = self.data {
                return Ok(self.piece(data, input));
            }
            let Some(head) = input.first_chunk::<8>() else { return Ok(None) };
            let (first, second) = ((&head[..4]).get_u32(), (&head[4..]).get_u32());
            let (flags, length) = (second >> 24, (second & LENGTH) as usize);
            if first & CONTROL == 0 {
                input.advance(8);
                if first == 0 {
                    return Err(FrameError::Malformed { kind: 0 });
                }
                self.data = Some((first, length, flags & FIN != 0));
                continue;
            }
            if length > MAX_CONTROL {
                return Err(FrameError::TooLong { length });
            }
            if input.len() < 8 + length {
                return Ok(None);
            }
            let version = (first & !CONTROL) >> 16;
            if version != VERSION {
                return Err(FrameError::Version { version });
            }
            let fields = input.split_to(8 + length).split_off(8);
            if let Some(frame) = self.control(first & 0xffff, flags & FIN != 0, &fields)? {
                return Ok(Some(frame));
            }
        }
    }

    fn piece(&mut self, (stream, left, fin): (u32, usize, bool), input: &mut BytesMut) -> Option<Frame> {
        if input.is_empty() && left > 0 {
            return None;
        }
        let bytes = input.split_to(left.min(input.len())).freeze();
        let left = left - bytes.len();
        self.data = (left > 0).then_some((stream, left, fin));
        Some(Frame::Data { stream, bytes, fin: fin && left == 0 })
    }

    fn control(&mut self, kind: u32, fin: bool, fields: &[u8]) -> Result<Option<Frame>, FrameError> {
        let malformed = FrameError::Malformed { kind };
        let mut rest = fields;
        let mut number = || rest.try_get_u32().map_err(|_| malformed);
        let frame = match kind {
            SYN_STREAM => {
                let stream = stream_id(number()?).ok_or(malformed)?;
                // The associated stream, the priority and the slot are ignored.
                let block = fields.get(10..).ok_or(malformed)?;
                Frame::SynStream { stream, headers: self.inflater.read(block)?, fin }
            }
            SYN_REPLY | HEADERS => {
                let stream = stream_id(number()?).ok_or(malformed)?;
                self.inflater.read(&fields[4..])?;
                if kind == HEADERS { Frame::Headers { stream, fin } } else { Frame::SynReply { stream, fin } }
            }
            RST_STREAM => Frame::RstStream { stream: stream_id(number()?).ok_or(malformed)? },
            SETTINGS => Frame::Settings { initial_window: initial_window(fields).ok_or(malformed)? },
            PING => Frame::Ping { id: number()? },
            GOAWAY => Frame::GoAway,
            WINDOW_UPDATE => {
                let (stream, delta) = (number()? & !CONTROL, number()? & !CONTROL);
                Frame::WindowUpdate { stream, delta }
            }
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

fn stream_id(number: u32) -> Option<u32> {
    Some(number & !CONTROL).filter(|id| *id != 0)
}

/// The initial window in a SETTINGS frame, if it has one. The outer None means that the frame is cut short.
fn initial_window(fields: &[u8]) -> Option<Option<u32>> {
    let (count, entries) = fields.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_be_bytes(*count)).ok()?;
    if entries.len() < count.checked_mul(8)? {
        return None;
    }
    let entries = entries.chunks_exact(8).take(count);
    let mut entries = entries.map(|mut entry| (entry.get_u32() & LENGTH, entry.get_u32()));
    Some(entries.find(|(id, _)| *id == INITIAL_WINDOW_SIZE).map(|(_, value)| value))
}

/// Encodes the control frames of one connection, in their order.
#[derive(Default)]
pub(super) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    pub(super) fn syn_stream(&mut self, into: &mut Vec<u8>, stream: u32, headers: &Headers, fin: bool) {
        let block = self.deflater.write(headers);
        control(into, SYN_STREAM, fin, 10 + block.len());
        into.extend_from_slice(&stream.to_be_bytes());
        into.extend_from_slice(&[0; 6]);
        into.extend_from_slice(&block);
    }

    /// Writes the response to SYN_STREAM. Without it a peer drops the data of the stream.
    pub(super) fn syn_reply(&mut self, into: &mut Vec<u8>, stream: u32) {
        let block = self.deflater.write(&Headers::default());
        control(into, SYN_REPLY, false, 4 + block.len());
        into.extend_from_slice(&stream.to_be_bytes());
        into.extend_from_slice(&block);
    }
}

pub(super) fn rst_stream(into: &mut Vec<u8>, stream: u32, reason: ResetReason) {
    numbers(into, RST_STREAM, &[stream, reason as u32]);
}

pub(super) fn settings(into: &mut Vec<u8>, initial_window: u32) {
    numbers(into, SETTINGS, &[1, INITIAL_WINDOW_SIZE, initial_window]);
}

pub(super) fn ping(into: &mut Vec<u8>, id: u32) {
    numbers(into, PING, &[id]);
}

pub(super) fn go_away(into: &mut Vec<u8>, last_stream: u32) {
    numbers(into, GOAWAY, &[last_stream, 0]);
}

pub(super) fn window_update(into: &mut Vec<u8>, stream: u32, delta: u32) {
    numbers(into, WINDOW_UPDATE, &[stream, delta]);
}

/// The head of a data frame.
pub(super) fn data_head(stream: u32, length: usize, fin: bool) -> [u8; 8] {
    let mut head = [0; 8];
    let length = u32::try_from(length).unwrap_or(LENGTH) & LENGTH;
    head[..4].copy_from_slice(&stream.to_be_bytes());
    head[4..].copy_from_slice(&(u32::from(fin) << 24 | length).to_be_bytes());
    head
}

fn control(into: &mut Vec<u8>, kind: u32, fin: bool, length: usize) {
    into.extend_from_slice(&(CONTROL | VERSION << 16 | kind).to_be_bytes());
    let length = u32::try_from(length).unwrap_or(LENGTH) & LENGTH;
    into.extend_from_slice(&(u32::from(fin) << 24 | length).to_be_bytes());
}

fn numbers(into: &mut Vec<u8>, kind: u32, numbers: &[u32]) {
    control(into, kind, false, numbers.len() * 4);
    numbers.iter().for_each(|number| into.extend_from_slice(&number.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(decoder: &mut Decoder, bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut input, mut frames) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            input.extend_from_slice(piece);
            while let Some(frame) = decoder.next(&mut input)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn sample() -> Vec<u8> {
        let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
        let headers = Headers::new(&[("streamtype", "stdin")]);
        encoder.syn_stream(&mut bytes, 1, &headers, false);
        encoder.syn_reply(&mut bytes, 1);
        settings(&mut bytes, 70_000);
        window_update(&mut bytes, 1, 9);
        bytes.extend_from_slice(&data_head(1, 3, true));
        bytes.extend_from_slice(b"abc");
        ping(&mut bytes, 5);
        rst_stream(&mut bytes, 1, ResetReason::Cancel);
        go_away(&mut bytes, 1);
        bytes
    }

    #[test]
    fn frames_are_read_as_written() {
        let frames = all(&mut Decoder::default(), &sample(), usize::MAX).unwrap();
        let headers = Headers::new(&[("streamtype", "stdin")]);
        let expected = [
            Frame::SynStream { stream: 1, headers, fin: false },
            Frame::SynReply { stream: 1, fin: false },
            Frame::Settings { initial_window: Some(70_000) },
            Frame::WindowUpdate { stream: 1, delta: 9 },
            Frame::Data { stream: 1, bytes: Bytes::from_static(b"abc"), fin: true },
            Frame::Ping { id: 5 },
            Frame::RstStream { stream: 1 },
            Frame::GoAway,
        ];
        assert_eq!(frames, expected);
    }

    #[test]
    fn frames_that_arrive_byte_by_byte_are_the_same() {
        let frames = all(&mut Decoder::default(), &sample(), 1).unwrap();
        let data: Vec<_> = frames
            .iter()
            .filter_map(|frame| match frame {
                Frame::Data { bytes, fin, .. } => Some((bytes.as_ref(), *fin)),
                _ => None,
            })
            .collect();
        assert_eq!(data, [(&b"a"[..], false), (b"b", false), (b"c", true)]);
        assert_eq!(frames.len(), 10);
    }

    #[test]
    fn a_long_control_frame_is_refused_by_its_head() {
        let head = [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff];
        let refused = all(&mut Decoder::default(), &head, 8);
        assert_eq!(refused, Err(FrameError::TooLong { length: 0xff_ffff }));
    }

    #[test]
    fn a_long_data_frame_takes_no_memory_before_it_arrives() {
        let mut bytes = data_head(7, 0xff_ffff, false).to_vec();
        bytes.extend_from_slice(b"first");
        let frames = all(&mut Decoder::default(), &bytes, usize::MAX).unwrap();
        assert_eq!(frames, [Frame::Data { stream: 7, bytes: Bytes::from_static(b"first"), fin: false }]);
    }

    #[test]
    fn frames_without_meaning_are_passed_over_and_damaged_ones_refused() {
        let mut bytes = vec![0x80, 3, 0, 11, 0, 0, 0, 2, 9, 9];
        ping(&mut bytes, 2);
        assert_eq!(all(&mut Decoder::default(), &bytes, 3), Ok(vec![Frame::Ping { id: 2 }]));
        for (bytes, error) in [
            (&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..], FrameError::Version { version: 2 }),
            (&[0x80, 3, 0, 6, 0, 0, 0, 1, 0], FrameError::Malformed { kind: PING }),
            (&[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0], FrameError::Malformed { kind: RST_STREAM }),
            (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff], FrameError::Malformed { kind: SETTINGS }),
            (&[0, 0, 0, 0, 0, 0, 0, 0], FrameError::Malformed { kind: 0 }),
        ] {
            assert_eq!(all(&mut Decoder::default(), bytes, usize::MAX), Err(error));
        }
    }
}
