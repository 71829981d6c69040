//! A session with a process: the streams of an exec or an attach, and the report of its end.
//!
//! | protocol | adds |
//! |---|---|
//! | v1 (or none) | stdin, stdout, stderr, error |
//! | v2, v3 | v3: resize |
//! | v4 | the error stream holds a Status in JSON, with the exit code |
//! | v5 | over a WebSocket: half close |

use bytes::BytesMut;
use serde::Deserialize;

use crate::carrier::Carrier;
use crate::stream::{StreamReader, StreamWriter};

/// Maximum length of one resize message, in bytes.
const MAX_RESIZE: usize = 1024;

/// The requested streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessRequest {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A sub-protocol of Kubernetes for processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    V1,
    V2,
    V3,
    V4,
    V5,
}

/// A session whose streams are all open. Keep it as a whole: dropping it closes the connection, also for
/// streams that were moved out.
pub struct ProcessSession {
    pub stdin: Option<StreamReader>,
    pub stdout: Option<StreamWriter>,
    pub stderr: Option<StreamWriter>,
    /// The sizes of the client's terminal.
    pub resizes: Option<Resizes>,
    pub(crate) error: StreamWriter,
    pub(crate) protocol: Protocol,
    pub(crate) carrier: Carrier,
}

/// How a session with a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The process ended with this exit code.
    Exited(i32),
    /// The process could not be served, or not to its end.
    Failed(String),
}

impl ProcessSession {
    /// Returns when the client is gone.
    pub async fn gone(&self) {
        self.carrier.gone().await;
    }

    /// Whether a client that is gone has closed its session properly. Without half closes, that is how it
    /// reports the end of its input, so its data can be read to the end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.carrier.is_closed()
    }

    /// Sends the outcome to the client, and closes. A client that does not read is waited for as long as it
    /// is connected: without the outcome it would report success.
    pub async fn finish(self, outcome: Outcome) {
        let Self { stdin, stdout, stderr, resizes, error, protocol, carrier } = self;
        drop((stdin, resizes));
        let tell = async {
            for output in [stdout, stderr].into_iter().flatten() {
                let _ = output.close().await;
            }
            outcome.send_status(error, protocol).await;
        };
        tokio::select! {
            () = tell => carrier.finish().await,
            () = carrier.gone() => {}
        }
    }
}

impl Outcome {
    /// Writes the outcome to the error stream, and closes that stream.
    pub(crate) async fn send_status(&self, mut error: StreamWriter, protocol: Protocol) {
        if let Some(text) = self.text(protocol) {
            let _ = error.write(text.as_bytes()).await;
        }
        let _ = error.close().await;
    }

    /// The content of the error stream. None for an empty stream, which means success before v4.
    fn text(&self, protocol: Protocol) -> Option<String> {
        if protocol >= Protocol::V4 {
            return Some(self.status());
        }
        match self {
            Self::Exited(0) => None,
            Self::Exited(code) => Some(format!("command terminated with exit code {code}")),
            Self::Failed(reason) => Some(reason.clone()),
        }
    }

    /// The outcome as a `Status` of Kubernetes' meta/v1.
    fn status(&self) -> String {
        let status = match self {
            Self::Exited(0) => serde_json::json!({ "metadata": {}, "status": "Success" }),
            Self::Exited(code) => serde_json::json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Self::Failed(reason) => serde_json::json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {reason}"),
                "reason": "InternalError",
                "details": { "causes": [{ "message": reason }] },
                "code": 500,
            }),
        };
        status.to_string()
    }
}

/// The columns and rows of a client's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Size {
    #[serde(rename = "Width")]
    pub columns: u16,
    #[serde(rename = "Height")]
    pub rows: u16,
}

/// Reads the sizes of a client's terminal: JSON values one after the other.
pub struct Resizes {
    reader: StreamReader,
    rest: BytesMut,
}

impl Resizes {
    pub(crate) fn new(reader: StreamReader) -> Self {
        Self { reader, rest: BytesMut::new() }
    }

    /// Returns the next size. When a client sends two sizes at once it wants both: the change makes a program
    /// draw its screen. None when no more sizes come, or when the data is not a size. Dropping this future
    /// loses no size.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            match first(&mut self.rest) {
                Ok(Some(size)) => return Some(size),
                Ok(None) if self.rest.len() <= MAX_RESIZE => {}
                Ok(None) | Err(_) => return None,
            }
            self.rest.extend_from_slice(&self.reader.read().await.ok()??);
        }
    }
}

/// Takes the first size out of `bytes` once it is complete.
pub(crate) fn first(bytes: &mut BytesMut) -> Result<Option<Size>, serde_json::Error> {
    let mut sizes = serde_json::Deserializer::from_slice(bytes).into_iter::<Size>();
    let size = match sizes.next() {
        Some(Ok(size)) => size,
        Some(Err(error)) if !error.is_eof() => return Err(error),
        Some(Err(_)) | None => return Ok(None),
    };
    let used = sizes.byte_offset();
    let _ = bytes.split_to(used);
    Ok(Some(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_a_status_from_v4_on_and_a_sentence_before() {
        let status: serde_json::Value =
            serde_json::from_str(&Outcome::Exited(3).text(Protocol::V4).unwrap()).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        let status: serde_json::Value =
            serde_json::from_str(&Outcome::Exited(0).text(Protocol::V5).unwrap()).unwrap();
        assert_eq!(status["status"], "Success");
        assert_eq!(Outcome::Exited(0).text(Protocol::V3), None);
        assert!(Outcome::Exited(3).text(Protocol::V1).unwrap().contains('3'));
    }

    #[test]
    fn sizes_are_read_whole_and_in_order() {
        let size = |columns, rows| Some(Size { columns, rows });
        let mut bytes = BytesMut::from(r#"{"Width":80,"Height":24}{"Width":9,"Height":7}"#);
        bytes.extend_from_slice(b"\n{\"Width\":1");
        assert_eq!(first(&mut bytes).unwrap(), size(80, 24));
        assert_eq!(first(&mut bytes).unwrap(), size(9, 7));
        assert_eq!(first(&mut bytes).unwrap(), None);
        bytes.extend_from_slice(b"00,\"Height\":50}");
        assert_eq!(first(&mut bytes).unwrap(), size(100, 50));
        assert!(bytes.is_empty());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for text in [r#"{"Width":-1,"Height":1}"#, r#"{"Width":70000,"Height":1}"#, "[[", "x"] {
            let mut bytes = BytesMut::from(text);
            let result = first(&mut bytes);
            assert!(result.is_err() || result.unwrap().is_none(), "{text}");
        }
    }
}
