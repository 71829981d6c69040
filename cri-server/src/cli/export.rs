//! `crisp export` and `crisp import`: writes the files of a container to an archive, and makes an image of an
//! archive.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::crisp::v1::{CopyOutRequest, ImportImageRequest};

use super::client::refused;
use super::names::Names;
use super::save::{input, pieces};
use super::{Client, output_file};
use crate::print;

/// Write the files of a container, running or not, to an archive; without its volumes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  crisp export web | crisp import - localhost/web:flat")]
pub struct Export {
    /// File to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
}

/// Make an image with one layer from an archive of files; the archive may be compressed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  crisp import -c 'CMD [\"/bin/sh\"]' rootfs.tar.gz localhost/rootfs:1")]
pub struct Import {
    /// An instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(long = "change", short, value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// Message for the history of the image
    #[arg(long, short, default_value = "", hide_default_value = true)]
    message: String,
    /// File to read; - for standard input
    file: PathBuf,
    /// Name of the image, as NAME or NAME:TAG
    #[arg(default_value = "", hide_default_value = true)]
    tag: String,
}

impl Export {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        if self.output.is_none() && io::stdout().is_terminal() {
            bail!("an archive is not for a terminal: use -o FILE, or send it elsewhere by > or |");
        }
        let container_id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let path = "/.".to_owned();
        let request = CopyOutRequest { container_id, path, follow_link: false, without_mounts: true };
        let replies = client.files.copy_out(request).await.map_err(refused)?.into_inner();
        output_file::write(self.output.as_deref(), replies, |reply| reply.data).await
    }
}

impl Import {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let mut first = Some((self.tag, self.changes, self.message));
        let pieces = pieces(input(Some(&self.file))?, move |data| {
            let (tag, changes, comment) = first.take().unwrap_or_default();
            ImportImageRequest { data, tag, changes, comment }
        });
        print::line(client.store.import(pieces).await.map_err(refused)?.into_inner().id)?;
        Ok(ExitCode::SUCCESS)
    }
}
