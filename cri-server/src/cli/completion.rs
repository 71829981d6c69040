//! `crisp completion` and `crisp man`: generated from the definition of the command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap_complete::Shell;

/// Print a shell's completion of crisp's commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp completion bash > /usr/share/bash-completion/completions/crisp
  crisp completion zsh > /usr/local/share/zsh/site-functions/_crisp
  crisp completion fish > /usr/share/fish/vendor_completions.d/crisp.fish")]
pub struct Completion {
    shell: Shell,
}

/// Print a manual page, or write all of them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp man run | man -l -
  crisp man --folder /usr/local/share/man/man1")]
pub struct Man {
    /// Write the pages of all commands to this folder, as crisp-COMMAND.1
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    folder: Option<PathBuf>,
    /// Command [default: crisp itself]
    command: Option<String>,
}

impl Completion {
    pub fn run(self, mut program: clap::Command) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "crisp", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Man {
    pub fn run(self, mut program: clap::Command) -> anyhow::Result<ExitCode> {
        program.build();
        if let Some(folder) = &self.folder {
            write_all(&program, folder)?;
            return Ok(ExitCode::SUCCESS);
        }
        let page = match &self.command {
            None => page(&program, "crisp")?,
            Some(name) => {
                let found = program.find_subcommand(name);
                let found = found.with_context(|| format!("there is no command {name:?}"))?;
                page(found, &format!("crisp-{name}"))?
            }
        };
        std::io::stdout().write_all(&page)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn page(command: &clap::Command, title: &str) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(title).render(&mut page)?;
    Ok(page)
}

fn write_all(program: &clap::Command, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let write = |command: &clap::Command, title: String| {
        let path = folder.join(format!("{title}.1"));
        std::fs::write(&path, page(command, &title)?).with_context(|| path.display().to_string())
    };
    write(program, "crisp".to_owned())?;
    program
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .try_for_each(|command| write(command, format!("crisp-{}", command.get_name())))
}
