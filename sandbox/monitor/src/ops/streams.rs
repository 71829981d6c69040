//! Operations on a container's streams: attached clients, standard input, the terminal's size, the log file.

use crisp_monitor::wire::response::StdinOpened;
use crisp_monitor::wire::{Failure, request};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::system;
use crate::launch;
use crate::monitor::{Call, Monitor, Reply, outputs};

impl Monitor {
    /// Attaches a client to a copy of a container's output.
    pub(super) fn attach(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::Attach { container: id, stdout, stderr } = call.read()?;
        let clients = [stdout, stderr];
        let (_, container) = self.find(&id)?;
        if !container.is_alive() {
            return Err(Failure::NotRunning { container: id.to_string() });
        }
        for client in clients.iter().flatten() {
            never_block(client).map_err(system("attach"))?;
        }
        for (output, client) in container.outputs.iter_mut().zip(clients) {
            if let (Some(output), Some(client)) = (output, client) {
                output.clients.add(client).map_err(system("attach one more client"))?;
            }
        }
        Ok(Reply::done())
    }

    /// Returns the writing end of a container's standard input.
    pub(super) fn open_stdin(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::OpenStdin { container: id } = call.read()?;
        let (_, container) = self.find(&id)?;
        let no_stdin = || Failure::NoStdin { container: id.to_string() };
        let stdin = if container.stdin_once && container.terminal.is_none() {
            // Without another copy here, the container reads end-of-file when this client is gone, even when
            // the server dies with it.
            container.stdin.take().ok_or_else(no_stdin)?
        } else {
            let stdin = container.stdin.as_ref().ok_or_else(no_stdin)?;
            rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(system("copy the descriptor"))?
        };
        Reply::with(StdinOpened { stdin })
    }

    /// Does not end a terminal: there the user types ^D.
    pub(super) fn close_stdin(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::CloseStdin { container: id } = call.read()?;
        let (_, container) = self.find(&id)?;
        match container.stdin.take() {
            Some(_) => Ok(Reply::done()),
            None => Err(Failure::NoStdin { container: id.to_string() }),
        }
    }

    /// Sets the size of a container's terminal.
    pub(super) fn resize(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::Resize { container: id, size } = call.read()?;
        let (_, container) = self.find(&id)?;
        let terminal = container.terminal.as_ref();
        let terminal = terminal.ok_or_else(|| Failure::NoTerminal { container: id.to_string() })?;
        launch::resize(&terminal.master, size).map_err(system("resize the terminal"))?;
        Ok(Reply::done())
    }

    /// Gives a container another log file, after a rotation.
    pub(super) fn reopen_log(&mut self, call: Call) -> Result<Reply, Failure> {
        let request::ReopenLog { container: id, log } = call.read()?;
        let (key, _) = self.find(&id)?;
        if let Some(container) = self.containers.get_mut(&key) {
            let change = container.log.reopen(log);
            outputs::watch(&self.poller, key, container);
            self.report_log_changes(&id, vec![change]);
        }
        Ok(Reply::done())
    }
}

fn never_block(client: &OwnedFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(client, true)
}
