//! Reads a layer's bytes from one server, from any offset on.

use bytes::{Buf, Bytes};
use http::{Method, Response, StatusCode, header};

use super::body::{Body, Pace};
use super::error::{EndpointError, Received};
use super::source::Source;
use crate::digest::Digest;

/// A blob that is being received. It ends after exactly the expected number of bytes, or with an error.
pub(crate) struct BlobStream {
    body: Body,
    what: String,
    /// Bytes to discard first, when the server does not support ranges.
    skip: u64,
    /// Offset of the next byte that is returned.
    offset: u64,
    size: u64,
}

impl Source {
    /// Opens the blob at `offset`, whether or not the server supports ranges.
    pub(crate) async fn open_blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        pace: Pace,
    ) -> Result<BlobStream, EndpointError> {
        let what = format!("blob {digest}");
        let response = self.request(Method::GET, &format!("blobs/{digest}"), None, offset).await?;
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
        if let Some(found) = length.map(|length| length.saturating_add(begins))
            && found != size
        {
            return Err(EndpointError::Size { what, found, expected: size });
        }
        let body = Body::new(response.into_body(), pace);
        Ok(BlobStream { body, what, skip: offset - begins, offset, size })
    }
}

impl BlobStream {
    /// The next piece; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, EndpointError> {
        loop {
            let received = Received { bytes: self.offset, of: Some(self.size) };
            let data = self.body.next().await.map_err(|error| error.after(received))?;
            let Some(mut data) = data else {
                if self.offset == self.size {
                    return Ok(None);
                }
                return Err(EndpointError::Cut {
                    received,
                    why: "the server says that this was all".to_owned(),
                });
            };
            let skipped = self.skip.min(data.len() as u64);
            self.skip -= skipped;
            data.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
            if data.is_empty() {
                continue;
            }
            self.offset += data.len() as u64;
            if self.offset > self.size {
                return Err(EndpointError::TooLarge { what: self.what.clone(), limit: self.size });
            }
            return Ok(Some(data));
        }
    }
}

/// The digest covers the original bytes, so a content encoding makes them useless.
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
