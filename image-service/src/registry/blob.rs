//! A layer's bytes from one endpoint, from any offset on.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::error::{EndpointError, chain};
use super::source::Source;
use crate::digest::Digest;

/// A blob being received. It ends after exactly the promised bytes, or with an error.
pub(crate) struct BlobStream {
    body: Incoming,
    what: String,
    /// Bytes to throw away first, when the server does not do ranges.
    skip: u64,
    /// Offset of the next byte handed out.
    received: u64,
    size: u64,
    stall: Duration,
}

impl Source {
    /// Opens the blob at `offset`, with or without the server's help.
    pub(crate) async fn open_blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> Result<BlobStream, EndpointError> {
        let what = format!("blob {digest}");
        let response = self.ask(Method::GET, &format!("blobs/{digest}"), None, offset).await?;
        refuse_encoding(&response)?;
        let begins = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(&response).ok_or_else(|| EndpointError::Protocol {
                why: "a partial answer that does not say where it begins".to_owned(),
            })?,
            _ => 0,
        };
        if begins > offset {
            let why = format!("asked for bytes from {offset} on, it sends them from {begins} on");
            return Err(EndpointError::Protocol { why });
        }
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()).and_then(|t| t.parse::<u64>().ok());
        if let Some(length) = length
            && begins + length != size
        {
            return Err(EndpointError::Size { what, found: begins + length, expected: size });
        }
        let (body, stall) = (response.into_body(), self.http.timeouts.stall);
        Ok(BlobStream { body, what, skip: offset - begins, received: offset, size, stall })
    }
}

impl BlobStream {
    /// The next piece; `None` once all is there. Time spent outside this call is never called a stall.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, EndpointError> {
        loop {
            let (received, size) = (self.received, self.size);
            let frame = match tokio::time::timeout(self.stall, self.body.frame()).await {
                Err(_) => return Err(EndpointError::Stalled { after: self.stall, received, size }),
                Ok(Some(Err(e))) => return Err(EndpointError::Cut { received, size, why: chain(&e) }),
                Ok(Some(Ok(frame))) => frame,
                Ok(None) if received == size => return Ok(None),
                Ok(None) => {
                    let why = "the server says that this was all".to_owned();
                    return Err(EndpointError::Cut { received, size, why });
                }
            };
            let Ok(mut data) = frame.into_data() else { continue };
            let skipped = self.skip.min(data.len() as u64);
            self.skip -= skipped;
            data.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
            if data.is_empty() {
                continue;
            }
            self.received += data.len() as u64;
            if self.received > size {
                return Err(EndpointError::TooLarge { what: self.what.clone(), limit: size });
            }
            return Ok(Some(data));
        }
    }
}

/// A digest is over the bytes themselves, so an encoding on the way makes them useless.
pub(crate) fn refuse_encoding<B>(response: &Response<B>) -> Result<(), EndpointError> {
    match response.headers().get(header::CONTENT_ENCODING).and_then(|v| v.to_str().ok()) {
        None | Some("" | "identity") => Ok(()),
        Some(encoding) => {
            let why = format!("it encodes the answer with {encoding:?}, which was not asked for");
            Err(EndpointError::Protocol { why })
        }
    }
}

/// The start of `Content-Range: bytes 5-9/10`.
fn range_start<B>(response: &Response<B>) -> Option<u64> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
