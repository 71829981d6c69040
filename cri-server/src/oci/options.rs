//! Options that several commands share.

use std::path::PathBuf;

use super::id::OciId;

/// Options of create and run.
#[derive(Debug, clap::Args)]
pub struct CreateOptions {
    /// Folder with config.json
    #[arg(long, short, default_value = ".", value_name = "FOLDER")]
    pub bundle: PathBuf,
    #[command(flatten)]
    pub process: ProcessOptions,
    /// Not supported: the root is always switched by pivot_root
    #[arg(long)]
    no_pivot: bool,
    /// Not supported: each container has its own session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Name of the new container
    pub id: OciId,
}

/// Options of all commands that start a process.
#[derive(Debug, clap::Args)]
pub struct ProcessOptions {
    /// Unix socket to which the master of the process's terminal is sent
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File to which the process id is written
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Number of descriptors, from 3 on, that the process inherits
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub preserve_fds: u32,
}

impl CreateOptions {
    /// # Errors
    /// An option that is not supported.
    pub fn refuse_unsupported(&self) -> anyhow::Result<()> {
        if self.no_pivot {
            anyhow::bail!("--no-pivot: is not supported: the root would stay within reach of the container");
        }
        if self.no_new_keyring {
            anyhow::bail!("--no-new-keyring: is not supported: the container would get the caller's keys");
        }
        Ok(())
    }
}
