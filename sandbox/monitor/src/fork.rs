//! The fork server: copies of it become the monitors of one server.
//!
//! ```text
//!  server --request: id, listening socket, log, cgroup--> fork server
//!     ^                                                       | clone3(PARENT, INTO_CGROUP)
//!     +--response: pid, pidfd---------------------------------+----> copy: a monitor, child of the server
//! ```

use crisp_executor::run::sibling::{Sibling, SiblingProcess, fork_sibling};
use crisp_monitor::fork_server::{
    ForkError, ForkRequest, Forked, UNNAMED, receive_request, send_ready, send_response,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};

use crate::pod::LeftHost;
use crate::sys;

/// Time without a request before the next network is prepared: first the copy that was just made needs the
/// processor.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Serves until the server's end and then returns None; in each copy it returns the copy's request.
pub(crate) fn serve(server: OwnedFd, host: &mut LeftHost) -> Result<Option<ForkRequest<OwnedFd>>, ForkError> {
    send_ready(&server)?;
    loop {
        if is_quiet(&server) {
            host.prepare_network()?;
        }
        let request = match receive_request(&server) {
            Ok(request) => request,
            Err(ForkError::Ended) => return Ok(None),
            Err(error) => return Err(error),
        };
        host.drop_old_network();
        // Before the copy exists, so that it always has its own name.
        sys::set_first_argument(UNNAMED, request.pod.as_str());
        let forked = fork_sibling(request.cgroup.as_ref().map(AsFd::as_fd));
        let answer = match forked {
            Ok(Sibling::Copy) => return Ok(Some(request)),
            Ok(Sibling::Caller(SiblingProcess { pid, pidfd, in_cgroup })) => {
                Ok(Forked { pid, pidfd, in_cgroup })
            }
            Err(errno) => Err(errno),
        };
        if request.network {
            // Two pods must never have the same one.
            host.network = None;
        }
        sys::set_first_argument(request.pod.as_str(), UNNAMED);
        send_response(&server, answer.as_ref().map_err(|errno| *errno))?;
    }
}

fn is_quiet(socket: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&QUIET)).is_ok_and(|ready| ready == 0)
}
