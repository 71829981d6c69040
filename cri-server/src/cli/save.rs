//! `crisp save` and `crisp load`: write images to archives and read them.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use crisp_proto::crisp::v1::{LoadImagesRequest, SaveImagesRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::client::refused;
use super::{Client, output_file};
use crate::print;

/// Bytes of one piece.
const PIECE: usize = 256 << 10;
/// Pieces that wait for the server.
const AHEAD: usize = 4;

/// Write images to one archive, which `docker load` and tools for OCI layouts can read
///
/// Layers are stored unpacked: the image in the archive has the same files, but not the digests of its
/// registry.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp save -o images.tar busybox:1 registry.example.org/app:2
  crisp save busybox | gzip | ssh other crisp load")]
pub struct Save {
    /// File to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Images, by tag, digest, id or the beginning of an id
    #[arg(required = true)]
    images: Vec<String>,
}

/// Load images from an archive of `crisp save`, `docker save` or an OCI layout; it may be compressed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp load -i images.tar
  docker save app:1 | crisp load")]
pub struct Load {
    /// File to read [default: standard input]
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print only the ids
    #[arg(long, short)]
    quiet: bool,
}

impl Save {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        if self.output.is_none() && io::stdout().is_terminal() {
            bail!("an archive is not for a terminal: use -o FILE, or send it elsewhere by > or |");
        }
        let request = SaveImagesRequest { images: self.images.clone() };
        let replies = client.store.save(request).await.map_err(refused)?.into_inner();
        output_file::write(self.output.as_deref(), replies, |reply| reply.data).await
    }
}

impl Load {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        if self.input.is_none() && io::stdin().is_terminal() {
            bail!("no archive: use -i FILE, or send one by < or |");
        }
        let pieces = pieces(input(self.input.as_ref())?, |data| LoadImagesRequest { data });
        let loaded = client.store.load(pieces).await.map_err(refused)?.into_inner();
        for image in loaded.images {
            match &image.tags[..] {
                _ if self.quiet => print::line(image.id)?,
                [] => print::line(format_args!("Loaded image ID: {}", image.id))?,
                tags => tags.iter().try_for_each(|tag| print::line(format_args!("Loaded image: {tag}")))?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A file; standard input for None and `-`.
pub fn input(path: Option<&PathBuf>) -> anyhow::Result<Box<dyn Read + Send>> {
    Ok(match path.filter(|path| path.as_os_str() != "-") {
        None => Box::new(io::stdin()),
        Some(path) => Box::new(File::open(path).with_context(|| path.display().to_string())?),
    })
}

/// Reads an archive in pieces on its own thread. An archive that cannot be read ends early, and the server
/// reports that.
pub fn pieces<T: Send + 'static>(
    mut from: Box<dyn Read + Send>,
    mut piece: impl FnMut(Vec<u8>) -> T + Send + 'static,
) -> ReceiverStream<T> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut data = vec![0; PIECE];
            match from.read(&mut data) {
                Ok(0) => return,
                Ok(length) => data.truncate(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    print::warning(format_args!("crisp: cannot read the archive: {error}"));
                    return;
                }
            }
            if sender.blocking_send(piece(data)).is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}
