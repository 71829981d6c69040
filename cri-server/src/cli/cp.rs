//! `crisp cp`: files out of a container, or into it.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use crisp_copy::{Destination, Owner, Root};
use crisp_proto::crisp::v1::{CopyInRequest, CopyOutReply, CopyOutRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Client;
use super::client::refused;
use super::names::Names;

/// Bytes of one piece.
const PIECE: usize = 64 << 10;
/// Pieces that wait to be sent or to be written.
const AHEAD: usize = 4;

/// Copy files out of a container or into it, running or not; the image needs no tar
///
/// One of SRC and DST is CONTAINER:PATH. If DST is a directory, SRC is copied into it under its own name;
/// SRC/. copies only the content of SRC. Otherwise DST is the new name. "-" as SRC is a tar archive on
/// standard input, which is unpacked into the directory DST; "-" as DST is a tar archive on standard output.
/// New files belong to root in the container, and to you on this machine. A container that does not run has
/// no volumes.
#[derive(Debug, clap::Args)]
pub struct Cp {
    /// Keep owner, group and set-id bits
    #[arg(long, short)]
    archive: bool,
    /// Copy the file that a symbolic link at SRC points to
    #[arg(long, short = 'L')]
    follow_link: bool,
    /// CONTAINER:PATH, a local path, or "-"
    #[arg(value_name = "SRC")]
    source: String,
    /// A local path, CONTAINER:PATH, or "-"
    #[arg(value_name = "DST")]
    destination: String,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Here(&'a str),
    Container {
        name: &'a str,
        path: &'a str,
    },
    /// An archive on standard input or output.
    Stream,
}

/// A text that begins with `/` or `.` is a local path, also with a colon in it.
fn side(text: &str) -> Side<'_> {
    if text == "-" {
        return Side::Stream;
    }
    match text.split_once(':') {
        Some((name, path)) if !text.starts_with(['/', '.']) && !name.is_empty() => {
            Side::Container { name, path: if path.is_empty() { "/" } else { path } }
        }
        _ => Side::Here(text),
    }
}

impl Cp {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        match (side(&self.source), side(&self.destination)) {
            (Side::Container { name, path }, to @ (Side::Here(_) | Side::Stream)) => {
                let container_id = Names::load(&mut client).await?.container(name)?.id.clone();
                let follow_link = self.follow_link;
                let (path, without_mounts) = (path.to_owned(), false);
                let request = CopyOutRequest { container_id, path, follow_link, without_mounts };
                let pieces = client.files.copy_out(request).await.map_err(refused)?.into_inner();
                self.receive(pieces, to).await?;
            }
            (from @ (Side::Here(_) | Side::Stream), Side::Container { name, path }) => {
                let container_id = Names::load(&mut client).await?.container(name)?.id.clone();
                let as_named = from == Side::Stream;
                let (path, keep_owner) = (path.to_owned(), self.archive);
                let first = CopyInRequest { container_id, path, as_named, keep_owner, data: Vec::new() };
                self.send(client, first, from).await?;
            }
            (Side::Container { .. }, Side::Container { .. }) => {
                bail!(
                    "both are in containers: copy to a place here first, or through a pipe: crisp cp A:PATH - | crisp cp - B:DIR"
                )
            }
            _ => bail!("none of both is in a container: write CONTAINER:PATH"),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn receive(&self, mut pieces: Streaming<CopyOutReply>, to: Side<'_>) -> anyhow::Result<()> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let owner = if self.archive { Owner::Kept } else { Owner::Maker };
        let path = match to {
            Side::Here(path) => Some(path.to_owned()),
            Side::Stream | Side::Container { .. } => None,
        };
        let writing = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
            let mut archive = Received { receiver, piece: Vec::new(), taken: 0 };
            match path {
                Some(path) => {
                    crisp_copy::unpack(archive, &Root::Host, Destination::Named(&path), owner)?;
                }
                None => {
                    let mut out = io::stdout().lock();
                    io::copy(&mut archive, &mut out).context("standard output")?;
                    out.flush().context("standard output")?;
                }
            }
            Ok(())
        });
        let receiving = async {
            while let Some(piece) = pieces.message().await.transpose() {
                let failed = piece.is_err();
                if sender.send(piece.map(|reply| reply.data)).await.is_err() || failed {
                    break;
                }
            }
            drop(sender);
        };
        tokio::join!(writing, receiving).0?
    }

    async fn send(&self, mut client: Client, first: CopyInRequest, from: Side<'_>) -> anyhow::Result<()> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (path, follow_link) = match from {
            Side::Here(path) => (Some(path.to_owned()), self.follow_link),
            Side::Stream | Side::Container { .. } => (None, false),
        };
        let (done, mut reading) = tokio::sync::oneshot::channel();
        // Not a thread of the runtime: the runtime would wait for standard input to end.
        std::thread::spawn(move || {
            let mut pieces = Sent { sender, next: first };
            let read = send_all(path.as_deref(), follow_link, &mut pieces);
            // Sent before the server finds the end of the archive.
            let _ = done.send(read);
        });
        match client.files.copy_in(ReceiverStream::new(receiver)).await {
            Ok(_) => reading.await?,
            // When both failed, the server's error is the cause of the local one.
            Err(status) => match reading.try_recv() {
                Ok(Err(error)) if !error.chain().any(is_gone) => Err(error),
                _ => Err(refused(status)),
            },
        }
    }
}

fn send_all(path: Option<&str>, follow_link: bool, pieces: &mut Sent) -> anyhow::Result<()> {
    // Flushed at once: the server can then report an error before anything is read here.
    pieces.flush()?;
    match path {
        Some(path) => crisp_copy::pack(&Root::Host, path, follow_link, &mut *pieces)?,
        None => {
            io::copy(&mut io::stdin().lock(), pieces).context("standard input")?;
        }
    }
    Ok(pieces.flush()?)
}

fn is_gone(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// An archive from the server.
struct Received {
    receiver: mpsc::Receiver<Result<Vec<u8>, tonic::Status>>,
    piece: Vec<u8>,
    taken: usize,
}

impl Read for Received {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            let Some(next) = self.receiver.blocking_recv() else { return Ok(0) };
            (self.piece, self.taken) = (next.map_err(|status| io::Error::other(refused(status)))?, 0);
        }
        let length = into.len().min(self.piece.len() - self.taken);
        into[..length].copy_from_slice(&self.piece[self.taken..][..length]);
        self.taken += length;
        Ok(length)
    }
}

/// An archive to the server.
struct Sent {
    sender: mpsc::Sender<CopyInRequest>,
    next: CopyInRequest,
}

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.next.data.len());
        self.next.data.extend_from_slice(&bytes[..taken]);
        if self.next.data.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender.blocking_send(std::mem::take(&mut self.next)).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(side("-"), Side::Stream);
        assert_eq!(side("web:/etc"), Side::Container { name: "web", path: "/etc" });
        assert_eq!(side("shop/web:etc/x:y"), Side::Container { name: "shop/web", path: "etc/x:y" });
        assert_eq!(side("web:"), Side::Container { name: "web", path: "/" });
        for here in ["/a:b", "./a:b", "../a:b", "file", ":x"] {
            assert_eq!(side(here), Side::Here(here));
        }
    }
}
