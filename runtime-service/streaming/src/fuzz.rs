//! Fuzz targets: functions that must return for any bytes.

use bytes::BytesMut;

use crate::spdy::Decoder;

/// Frames of SPDY with their header blocks, as they arrive in pieces.
pub fn spdy(bytes: &[u8]) {
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    let step = bytes.first().map_or(1, |first| usize::from(*first) + 1);
    for piece in bytes.get(1..).unwrap_or_default().chunks(step) {
        input.extend_from_slice(piece);
        while let Ok(frame) = decoder.next(&mut input) {
            if frame.is_none() {
                break;
            }
        }
    }
}
