//! Reads a response's body with a minimal speed: a server that sends single bytes is treated like a silent
//! one.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::error::{EndpointError, Received, chain};

/// The minimal speed of a body: at least `bytes` in each `window`, and at least one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pace {
    pub window: Duration,
    pub bytes: u64,
}

/// A body being received. Only the time spent in [`next`](Self::next) counts.
pub(crate) struct Body {
    incoming: Incoming,
    pace: Pace,
    /// Time spent in the current window.
    waited: Duration,
    arrived: u64,
    /// All received bytes.
    received: u64,
}

impl Body {
    pub(crate) fn new(incoming: Incoming, pace: Pace) -> Self {
        Self { incoming, pace, waited: Duration::ZERO, arrived: 0, received: 0 }
    }

    /// The next bytes; `None` at the end of the body.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, EndpointError> {
        loop {
            let asked = Instant::now();
            let frame = tokio::time::timeout(self.pace.window, self.incoming.frame()).await;
            self.waited += asked.elapsed();
            let received = Received { bytes: self.received, of: None };
            let frame = match frame {
                Err(_) => return Err(EndpointError::Stalled { after: self.pace.window, received }),
                Ok(Some(Err(e))) => return Err(EndpointError::Cut { received, why: chain(&e) }),
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(None),
            };
            let Ok(data) = frame.into_data() else { continue };
            self.received += data.len() as u64;
            self.arrived += data.len() as u64;
            self.check_pace()?;
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    fn check_pace(&mut self) -> Result<(), EndpointError> {
        if self.waited < self.pace.window {
            return Ok(());
        }
        if self.arrived < self.pace.bytes {
            let received = Received { bytes: self.received, of: None };
            return Err(EndpointError::Slow { bytes: self.arrived, within: self.waited, received });
        }
        (self.waited, self.arrived) = (Duration::ZERO, 0);
        Ok(())
    }

    /// Reads a whole body of at most `limit` bytes.
    pub(crate) async fn read_all(mut self, limit: u64, what: &str) -> Result<Bytes, EndpointError> {
        let mut read = BytesMut::new();
        while let Some(data) = self.next().await? {
            if self.received > limit {
                return Err(EndpointError::TooLarge { what: what.to_owned(), limit });
            }
            read.extend_from_slice(&data);
        }
        Ok(read.freeze())
    }
}
