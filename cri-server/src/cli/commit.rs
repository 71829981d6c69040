//! `crisp commit`: a container becomes an image.

use std::process::ExitCode;

use crisp_proto::crisp::v1::CommitContainerRequest;

use super::Client;
use super::client::refused;
use super::names::Names;
use crate::print;

/// Make an image of a container: the layers of its image and one with the container's own changes
///
/// The image has neither the volumes of the container nor the environment and the command that it got from
/// its pod, which may hold secrets; --change sets those of the image.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  crisp commit -m 'with tools' -c 'CMD [\"sh\"]' -c 'ENV EDITOR=vi' web localhost/web:tools")]
pub struct Commit {
    /// Author of the image
    #[arg(long, short, default_value = "", hide_default_value = true)]
    author: String,
    /// Message for the history of the image
    #[arg(long, short, default_value = "", hide_default_value = true)]
    message: String,
    /// An instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(long = "change", short, value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// Do not pause a running container during the commit: a file that it writes may be incomplete in the
    /// image
    #[arg(long)]
    no_pause: bool,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
    /// Name of the image, as NAME or NAME:TAG
    #[arg(default_value = "", hide_default_value = true)]
    tag: String,
}

impl Commit {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let container_id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let request = CommitContainerRequest {
            container_id,
            tag: self.tag,
            changes: self.changes,
            author: self.author,
            comment: self.message,
            no_pause: self.no_pause,
        };
        print::line(client.containers.commit(request).await.map_err(refused)?.into_inner().image_id)?;
        Ok(ExitCode::SUCCESS)
    }
}
