//! The pause of a start in which hooks run.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
    SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use rustix::process::{PidfdFlags, pidfd_open};

/// The end of the process that runs the hooks. When it is closed, the start fails.
#[derive(Debug)]
pub struct Pause(OwnedFd);

/// A process in its pause.
#[derive(Debug)]
pub struct Paused {
    /// In the PID namespace of the caller.
    pub pid: i32,
    pub process: OwnedFd,
}

impl Pause {
    /// Also returns the end for the container's process, see [`crate::plan::HookPause::socket`].
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn pair() -> Result<(Self, OwnedFd), Errno> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // The kernel adds the sender's pid to each message, as this process numbers it.
        sockopt::set_socket_passcred(&ours, true)?;
        Ok((Self(ours), theirs))
    }

    /// Waits until the process has come to its pause. Returns None when it has ended before, or when `cancel` hangs
    /// up.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn wait(&self, cancel: BorrowedFd<'_>) -> Result<Option<Paused>, Errno> {
        let mut both = [PollFd::new(&self.0, PollFlags::IN), PollFd::from_borrowed_fd(cancel, PollFlags::IN)];
        retry_on_intr(|| poll(&mut both, None))?;
        if !both[1].revents().is_empty() {
            return Ok(None);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0; 1];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let receive = || recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, flags);
        let got = match retry_on_intr(receive) {
            // It has ended without reading what was sent to it.
            Err(Errno::CONNRESET) => return Ok(None),
            got => got?,
        };
        let pid = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        let Some(pid) = pid.filter(|_| got.bytes > 0) else { return Ok(None) };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        // Its end of the socket is closed when it has ended: then its number may be that of another process.
        let paused = Paused { pid: pid.as_raw_nonzero().get(), process };
        Ok((!self.has_ended()?).then_some(paused))
    }

    fn has_ended(&self) -> Result<bool, Errno> {
        let mut socket = [PollFd::new(&self.0, PollFlags::empty())];
        retry_on_intr(|| poll(&mut socket, Some(&Timespec::default())))?;
        Ok(socket[0].revents().contains(PollFlags::HUP))
    }

    /// Lets the process go on.
    ///
    /// # Errors
    /// EPIPE when it has ended.
    pub fn proceed(&self) -> Result<(), Errno> {
        let send = || {
            sendmsg(&self.0, &[IoSlice::new(&[0])], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
        };
        retry_on_intr(send).map(drop)
    }
}

impl AsFd for Pause {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{send, socketpair};

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_pause_names_its_process_and_ends_with_it() {
        let (cancel, _writer) = pipe();
        let (pause, theirs) = Pause::pair().unwrap();
        send(&theirs, &[0], SendFlags::empty()).unwrap();
        let paused = pause.wait(cancel.as_fd()).unwrap().unwrap();
        assert_eq!(paused.pid, i32::try_from(std::process::id()).unwrap());
        pause.proceed().unwrap();
        drop(theirs);
        assert!(pause.wait(cancel.as_fd()).unwrap().is_none());
        assert_eq!(pause.proceed(), Err(Errno::PIPE));
    }

    #[test]
    fn a_wait_can_be_cancelled() {
        let (cancel, writer) = pipe();
        let (pause, _theirs) = Pause::pair().unwrap();
        drop(writer);
        assert!(pause.wait(cancel.as_fd()).unwrap().is_none());
    }
}
