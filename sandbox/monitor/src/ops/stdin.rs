//! A container's standard input: a way to write to it, and its end.

use crisp_monitor::wire::{Failure, request};

use super::system;
use crate::monitor::{Answer, Call, Monitor, Reply};

impl Monitor {
    pub(super) fn open_stdin(&mut self, call: Call) -> Result<Answer, Failure> {
        let request::OpenStdin { container: id } = call.body()?;
        let (_, container) = self.find(&id)?;
        let stdin = container.stdin.as_ref();
        let stdin = stdin.ok_or_else(|| Failure::NoStdin { container: id.to_string() })?;
        let copy = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(system("copy the descriptor"))?;
        Ok(Reply::new(&(), vec![copy])?.into())
    }

    /// A terminal is not ended by this: there the user types ^D.
    pub(super) fn close_stdin(&mut self, call: Call) -> Result<Answer, Failure> {
        let request::CloseStdin { container: id } = call.body()?;
        let (_, container) = self.find(&id)?;
        match container.stdin.take() {
            Some(_) => Ok(Answer::done()),
            None => Err(Failure::NoStdin { container: id.to_string() }),
        }
    }
}
