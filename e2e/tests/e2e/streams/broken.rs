//! Bytes that break a protocol.

use crisp_e2e::Result;
use flate2::{Compress, Compression, FlushCompress};

/// The mask of all frames: bytes stay as they are.
const MASK: [u8; 4] = [0; 4];

/// A frame of a WebSocket with a length below 126.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    [&[first, 0x80 | length][..], &MASK, payload].concat()
}

/// The head of a binary message with this length.
pub fn long_frame(length: u64) -> Vec<u8> {
    [&[0x82, 0xff][..], &length.to_be_bytes(), &MASK].concat()
}

/// Bytes that break a WebSocket.
pub fn broken_frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("garbage", vec![0xff; 64]),
        ("not masked", vec![0x82, 2, 0, b'x']),
        ("a reserved opcode of data", frame(0x83, b"")),
        ("a reserved opcode of control", frame(0x8b, b"")),
        ("a reserved bit", frame(0xc2, b"\0x")),
        ("a control frame in pieces", frame(0x09, b"ping")),
        ("a control frame that is too long", [&[0x89, 0xfe, 0, 126][..], &MASK, &[0; 126]].concat()),
        ("the rest of no message", frame(0x80, b"\0x")),
        ("a message within another", [frame(0x02, b"\0x"), frame(0x82, b"\0y")].concat()),
        ("text that is not UTF-8", frame(0x81, b"\xff\xfe")),
        ("a message of 33 MiB", long_frame(33 << 20)),
        ("a message of absurd length", long_frame(u64::MAX >> 1)),
    ]
}

/// A SYN_STREAM frame with this compressed block.
fn syn_stream(stream: u32, block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(10 + block.len()).expect("a short frame").to_be_bytes();
    let head = [&[0x80, 3, 0, 1, 0][..], &length[1..], &stream.to_be_bytes(), &[0; 6]].concat();
    [head, block.to_vec()].concat()
}

/// A header block, behind the first one of a connection, that inflates to eight megabytes. Nothing else is wrong with it.
fn bomb() -> Result<Vec<u8>> {
    let long = "x".repeat(8 << 20);
    let headers = [("streamtype", "error"), ("port", "8080"), ("requestid", "9"), ("name", long.as_str())];
    let mut text = u32::try_from(headers.len())?.to_be_bytes().to_vec();
    for part in headers.into_iter().flat_map(|(name, value)| [name, value]) {
        text.extend_from_slice(&u32::try_from(part.len())?.to_be_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    let mut block = Vec::with_capacity(64 << 10);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(&text, &mut block, FlushCompress::Sync)?;
    assert_eq!(usize::try_from(compress.total_in())?, text.len(), "the block has all of the text");
    assert!(block.len() < 15_000, "{} bytes are more than a frame may have", block.len());
    Ok(block)
}

/// Bytes that break a SPDY session with open streams.
pub fn broken_spdy() -> Result<Vec<(&'static str, Vec<u8>)>> {
    Ok(vec![
        ("a control frame that is too long", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
        ("another version", vec![0x80, 2, 0, 1, 0, 0, 0, 10, 0, 0, 0, 101, 0, 0, 0, 0, 0, 0]),
        ("a header block that is not compressed", syn_stream(101, &[0xff; 40])),
        ("a header block that inflates without a limit", syn_stream(101, &bomb()?)),
        ("a frame that is cut short", vec![0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]),
    ])
}
