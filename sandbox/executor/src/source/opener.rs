//! The thread that opens paths, and how mounts come back from it.
//!
//! It has a table of descriptors of its own. A thread that hangs in the kernel outlives a server that was
//! killed, and with the server's descriptors it would keep the server's locks: the next one could not start.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::waiting::Waiting;
use super::{Options, Source, SourceError, open_here};
use crate::sys::leave_descriptors;

type Requests = Vec<(PathBuf, Options)>;

/// What the thread sends for a path. The mount of a success has been sent over the socket then.
type Answer = Result<Opened, SourceError>;

struct Opened {
    file: bool,
}

/// A thread under way.
pub(super) struct Opener {
    answers: Receiver<Answer>,
    mounts: OwnedFd,
}

impl Opener {
    /// Starts the thread; it opens `requests` in their order and ends at the first that fails.
    pub(super) fn start(requests: Requests, deadline: Instant) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (mounts, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let theirs = Arc::new(theirs);
        let (sender, answers) = channel();
        let (ready, is_ready) = channel();
        let socket = theirs.clone();
        let work = move || {
            let own = leave_descriptors(&socket);
            // Before the other owner goes: this one must not be the last, see `leave_descriptors`.
            drop(socket);
            let _ = ready.send(());
            match own {
                Ok(own) => work(&requests, deadline, &own, &sender),
                Err(errno) => fail(&requests, errno, &sender),
            }
        };
        std::thread::Builder::new()
            .name("mount sources".to_owned())
            .spawn(work)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        // Until then the thread does nothing that could hang.
        let _ = is_ready.recv();
        drop(theirs);
        Ok(Self { answers, mounts })
    }

    /// The next of the requests. None: no answer in time.
    pub(super) fn next(&self, timeout: Duration) -> Option<Result<Source, SourceError>> {
        match self.answers.recv_timeout(timeout) {
            Ok(Ok(Opened { file })) => {
                let mount = receive(self.mounts.as_fd()).ok()?;
                Some(Ok(Source { mount, file }))
            }
            Ok(Err(error)) => Some(Err(error)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}

fn fail(requests: &Requests, errno: Errno, answers: &Sender<Answer>) {
    let path = requests.first().map(|(path, _)| path.clone()).unwrap_or_default();
    let step = "leave the server's descriptors";
    let _ = answers.send(Err(SourceError::Kernel { path, step, errno, hint: "" }));
}

fn work(requests: &Requests, deadline: Instant, mounts: &OwnedFd, answers: &Sender<Answer>) {
    for (path, options) in requests {
        let waiting = Waiting::new(path, deadline);
        let result = open_here(path, *options).and_then(|source| {
            let step = "pass its mount on";
            let failed = |errno| SourceError::Kernel { path: path.clone(), step, errno, hint: "" };
            pass(mounts.as_fd(), source.mount.as_fd()).map_err(failed)?;
            Ok(Opened { file: source.file })
        });
        drop(waiting);
        let failed = result.is_err();
        // The receiver is gone after its deadline; the mount ends with its descriptor.
        if answers.send(result).is_err() || failed {
            return;
        }
    }
}

fn pass(socket: BorrowedFd<'_>, mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [mount];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(b"m")], &mut control, SendFlags::NOSIGNAL))
        .map(drop)
}

fn receive(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags))?;
    let mut rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    rights.next().and_then(|mut fds| fds.next()).ok_or(Errno::MFILE)
}
