//! A process in a user namespace that makes what is to belong to it: namespaces and their settings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{At, Stage, StageError};
use super::handover;
use crate::sys::{self, Cloned};
use crate::user_namespace::UserNamespace;

/// It waits, in its namespaces, for the end of this value.
#[derive(Debug)]
pub struct Inside {
    pidfd: OwnedFd,
    _socket: OwnedFd,
}

/// The result of its work, as it sends it.
#[derive(Serialize, Deserialize)]
enum ChildResult<E> {
    Done,
    Refused(E),
    Failed(StageError),
}

/// Longest answer.
const ANSWER: usize = 4096;

impl Inside {
    /// Runs `work` in a child of the caller, as root of `user`, and waits until it is done. The caller has one
    /// thread.
    ///
    /// # Errors
    /// The stage before `work`; inside it those of `work`.
    pub fn run<E: Serialize + DeserializeOwned>(
        user: &UserNamespace,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Result<Self, E>, StageError> {
        let at = Stage::UserNamespace;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .at(at, "make a socket")?;
        match sys::clone3(0, None).at(Stage::Clone, "process")? {
            Cloned::Child => {
                // Else the end of the parent's copy would not be seen.
                drop(ours);
                live(user, &theirs, work)
            }
            Cloned::Parent { pidfd, .. } => {
                drop(theirs);
                let mut answer = [0; ANSWER];
                let got = rustix::io::retry_on_intr(|| recv(&ours, &mut answer[..], RecvFlags::empty()));
                let (length, _) = got.at(at, "wait for a process in it")?;
                let result = postcard::from_bytes(&answer[..length]).map_err(|_| Errno::CHILD);
                Ok(match result.at(at, "wait for a process in it")? {
                    ChildResult::Done => Ok(Self { pidfd, _socket: ours }),
                    ChildResult::Refused(error) => Err(error),
                    ChildResult::Failed(error) => return Err(error),
                })
            }
        }
    }
}

impl AsFd for Inside {
    /// Its pidfd.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn live<E: Serialize>(user: &UserNamespace, socket: &OwnedFd, work: impl FnOnce() -> Result<(), E>) -> ! {
    let result = match handover::enter(user.as_fd()) {
        Ok(()) => work().map_or_else(ChildResult::Refused, |()| ChildResult::Done),
        Err(error) => ChildResult::Failed(error),
    };
    if let Ok(bytes) = postcard::to_allocvec(&result) {
        let _ = send(socket, &bytes, SendFlags::NOSIGNAL);
    }
    // Until the parent closes its end.
    let _ = recv(socket, &mut [0; 1][..], RecvFlags::empty());
    sys::exit(0)
}
