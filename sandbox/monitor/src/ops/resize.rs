//! Sets the size of a container's terminal.

use crisp_monitor::wire::{Failure, request};

use super::system;
use crate::launch;
use crate::monitor::{Call, Monitor, Reply};

impl Monitor {
    pub(super) fn resize(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::Resize { container: id, size } = call.read()?;
        let (_, container) = self.find(&id)?;
        let terminal = container.terminal.as_ref();
        let terminal = terminal.ok_or_else(|| Failure::NoTerminal { container: id.to_string() })?;
        launch::resize(&terminal.master, size).map_err(system("resize the terminal"))?;
        Ok(Reply::done())
    }
}
