//! A container's standard input: a way to write to it, and its end.

use crisp_monitor::wire::response::StdinOpened;
use crisp_monitor::wire::{Failure, request};

use super::system;
use crate::monitor::{Call, Monitor, Reply};

impl Monitor {
    pub(super) fn open_stdin(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::OpenStdin { container: id } = call.read()?;
        let (_, container) = self.find(&id)?;
        let no_stdin = || Failure::NoStdin { container: id.to_string() };
        let stdin = if container.stdin_once && container.terminal.is_none() {
            // With no copy left here the container reads end-of-file when this client is gone, also
            // when the server dies with it.
            container.stdin.take().ok_or_else(no_stdin)?
        } else {
            let stdin = container.stdin.as_ref().ok_or_else(no_stdin)?;
            rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(system("copy the descriptor"))?
        };
        Reply::with(StdinOpened { stdin })
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
