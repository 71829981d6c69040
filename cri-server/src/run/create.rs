//! `crisp create`: a container of an image under the server, to be started later.

use std::process::ExitCode;

use anyhow::bail;

use super::detached;
use super::image::{self, ImageRun, Options, Refused, Start, is_manifest};
use super::words::Words;
use crate::config::Settings;

/// Create a container from an image, without starting it
///
/// The options and the words after the image are those of `crisp run -d`. The server keeps the container, also
/// when the server itself starts anew; `crisp start` starts it, and `crisp rm` removes it. Prints its id.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_help_subcommand = true,
    override_usage = "crisp create [OPTIONS] IMAGE [COMMAND] [ARG]...",
    after_help = "\
Example:
  crisp create --name web -p 8080:80 nginx && crisp start web"
)]
pub struct Create {
    /// First remove pods with the same names
    #[arg(long)]
    replace: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    refused: Refused,
    #[command(subcommand)]
    words: Words,
}

impl Create {
    /// Runs the command.
    ///
    /// # Errors
    /// There is no server or no image, or the server refuses.
    pub fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        self.refused.check()?;
        let (image, command) = self.words.split();
        if is_manifest(&image) {
            bail!("{image} is a manifest: pods of manifests are started by `crisp up`");
        }
        let run = ImageRun::new(&image, command, self.options)?;
        detached::block_on(image::detach(run, settings, self.replace, Start::Later))
    }
}
