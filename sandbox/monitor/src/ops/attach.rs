//! A copy of a container's output for a client.

use crisp_monitor::wire::{Failure, request};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::system;
use crate::monitor::{Call, Monitor, Reply};

impl Monitor {
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
}

fn never_block(client: &OwnedFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(client, true)
}
