//! A copy of a container's output for a client.

use crisp_monitor::wire::{Failure, request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::system;
use crate::monitor::{Call, Monitor, Reply};

/// Clients of one output. Each takes a descriptor, and a write for each piece of output.
const MAX_CLIENTS: usize = 64;

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
                // A container that prints nothing never finds out who has left.
                output.clients.retain(is_read);
                if output.clients.len() >= MAX_CLIENTS {
                    return Err(system("attach one more client")(Errno::USERS));
                }
                output.clients.push(client);
            }
        }
        Ok(Reply::done())
    }
}

/// Whether the reading end of a client's pipe is open.
fn is_read(client: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(client, PollFlags::empty())];
    poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::ERR)
}

fn never_block(client: &OwnedFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(client, true)
}
