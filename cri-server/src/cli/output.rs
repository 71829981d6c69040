//! Copies a container's output to standard output, which may block for long: a pager, or a pipe that is not
//! read. Signals are handled meanwhile.

use std::io::{self, Write};

use crisp_streaming::StreamReader;
use tokio::sync::{mpsc, oneshot};

/// Pieces that wait for the output.
const AHEAD: usize = 4;

/// Copies the stream to its end. A stream that fails has ended too: the session reports the cause.
///
/// # Errors
/// The output cannot be written, for example because its reader has left.
pub async fn copy<W: Write>(
    from: Option<StreamReader>,
    to: impl FnOnce() -> W + Send + 'static,
) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(AHEAD);
    let (done, mut written) = oneshot::channel();
    // Not a thread of the runtime: the runtime would wait for it at the end.
    std::thread::spawn(move || {
        let mut to = to();
        let mut write = || {
            while let Some(piece) = pieces.blocking_recv() {
                to.write_all(&piece)?;
                to.flush()?;
            }
            Ok(())
        };
        let _ = done.send(write());
    });
    let read = async {
        while let Ok(Some(bytes)) = from.read().await {
            if sender.send(bytes.into()).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    tokio::select! {
        () = read => {}
        written = &mut written => return ended(written),
    }
    ended(written.await)
}

fn ended(written: Result<io::Result<()>, oneshot::error::RecvError>) -> io::Result<()> {
    written.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}
