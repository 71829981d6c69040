//! A container's standard input: a way to write to it, and its end.

use crisp_monitor::wire::response::StdinOpened;
use crisp_monitor::wire::{Failure, request};

use super::system;
use crate::monitor::{Call, Monitor, Reply};

impl Monitor {
    pub(super) fn open_stdin(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::OpenStdin { container: id } = call.read()?;
        let (_, container) = self.find(&id)?;
        let stdin = container.stdin.as_ref();
        let stdin = stdin.ok_or_else(|| Failure::NoStdin { container: id.to_string() })?;
        let copy = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(system("copy the descriptor"))?;
        Reply::with(StdinOpened { stdin: copy })
    }

    /// A terminal is not ended by this: there the user types ^D.
    pub(super) fn close_stdin(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::CloseStdin { container: id } = call.read()?;
        let (_, container) = self.find(&id)?;
        match container.stdin.take() {
            Some(_) => Ok(Reply::done()),
            None => Err(Failure::NoStdin { container: id.to_string() }),
        }
    }
}
