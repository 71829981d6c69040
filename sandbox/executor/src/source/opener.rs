//! The thread that opens paths, and the transfer of its mounts.
//!
//! The thread has a table of descriptors of its own. A thread that hangs in the kernel outlives a server that
//! was killed; with the server's descriptors it would keep the server's locks, and the next server could not
//! start.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::waiting::Waiting;
use super::{Options, Source, SourceError, open_here};
use crate::sys::leave_descriptors;

type Requests = Vec<(PathBuf, Options)>;

/// For each path whether it is a file, or the position of the path that failed. The mounts have been sent
/// over the socket before. There is one response for all paths, because each response costs two switches of
/// threads.
type Response = Result<Vec<bool>, (usize, SourceError)>;

/// Number of mounts in one message; the kernel takes 253.
const BATCH: usize = 250;

/// The thread of the last request, which waits for the next one: starting a thread costs more than most
/// requests.
static IDLE: Mutex<Option<Opener>> = Mutex::new(None);

struct Request {
    paths: Requests,
    deadline: Instant,
}

/// A thread that opens paths, until its owner is dropped.
pub(super) struct Opener {
    requests: Sender<Request>,
    responses: Receiver<Response>,
    mounts: OwnedFd,
    /// How many paths of the request have been opened.
    opened: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Opener {
    /// Takes the thread that waits for a request, or starts one.
    pub(super) fn take() -> Result<Self, Errno> {
        match idle().take() {
            Some(opener) => Ok(opener),
            None => Self::start(),
        }
    }

    /// Starts a thread, in the mount namespace of the calling thread.
    pub(super) fn start() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (mounts, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let theirs = Arc::new(theirs);
        let (requests, received) = channel();
        let (response, responses) = channel();
        let (ready, is_ready) = channel();
        let opened = Arc::new(AtomicUsize::new(0));
        let (socket, count) = (theirs.clone(), opened.clone());
        let work = move || {
            let own = leave_descriptors(&socket);
            // Closed before the other owner closes its copy: this copy must not be the last one, see
            // `leave_descriptors`.
            drop(socket);
            match own {
                Ok(own) => {
                    let _ = ready.send(Ok(()));
                    serve(&received, &response, &own, &count);
                }
                Err(errno) => {
                    let _ = ready.send(Err(errno));
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("mount sources".to_owned())
            .spawn(work)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        // Before this message the thread does nothing that could hang.
        let left = is_ready.recv().unwrap_or(Err(Errno::AGAIN));
        drop(theirs);
        left.map(|()| Self { requests, responses, mounts, opened, thread })
    }

    /// Opens `paths` in their order, up to the first failure. The error has the position of that path; it has
    /// no `SourceError` when there is no response in time. The thread is then abandoned, and ends when it
    /// returns from the kernel.
    pub(super) fn open(
        self,
        paths: Requests,
        deadline: Instant,
    ) -> Result<Vec<Source>, (usize, Option<SourceError>)> {
        self.opened.store(0, Ordering::Release);
        let late = || (self.opened.load(Ordering::Acquire), None);
        self.requests.send(Request { paths, deadline }).map_err(|_| late())?;
        let timeout = deadline.saturating_duration_since(Instant::now());
        let files = match self.responses.recv_timeout(timeout) {
            Ok(Ok(files)) => files,
            Ok(Err((position, error))) => {
                self.give_back();
                return Err((position, Some(error)));
            }
            Err(_) => return Err(late()),
        };
        let mut sources = Vec::with_capacity(files.len());
        for files in files.chunks(BATCH) {
            let mounts = receive(self.mounts.as_fd()).unwrap_or_default();
            sources.extend(mounts.into_iter().zip(files).map(|(mount, file)| Source { mount, file: *file }));
        }
        // Fewer mounts arrive when this process has no free descriptors.
        if sources.len() < files.len() {
            return Err((sources.len(), None));
        }
        self.give_back();
        Ok(sources)
    }

    /// Keeps the thread for the next request.
    pub(super) fn give_back(self) {
        *idle() = Some(self);
    }

    fn end(self) {
        let Self { requests, responses, thread, .. } = self;
        drop((requests, responses));
        // The only possible error is a panic of the thread.
        let _ = thread.join();
    }
}

/// Ends the thread that waits for requests, for a process that is about to be copied: locks of the thread
/// would stay locked in the copy. A thread that hangs is not waited for.
pub fn end_thread() {
    let waiting = idle().take();
    if let Some(opener) = waiting {
        opener.end();
    }
}

fn idle() -> MutexGuard<'static, Option<Opener>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The main function of the thread.
fn serve(requests: &Receiver<Request>, responses: &Sender<Response>, socket: &OwnedFd, opened: &AtomicUsize) {
    while let Ok(Request { paths, deadline }) = requests.recv() {
        // The receiver is dropped at its deadline; the mounts are dropped with the socket.
        if responses.send(work(&paths, deadline, socket, opened)).is_err() {
            return;
        }
    }
}

fn failed(requests: &Requests, position: usize, step: &'static str, errno: Errno) -> (usize, SourceError) {
    let path = requests.get(position).map(|(path, _)| path.clone()).unwrap_or_default();
    (position, SourceError::Kernel { path, step, errno, hint: "" })
}

fn work(requests: &Requests, deadline: Instant, socket: &OwnedFd, opened: &AtomicUsize) -> Response {
    let mut sources = Vec::with_capacity(requests.len());
    for (position, (path, options)) in requests.iter().enumerate() {
        let _waiting = Waiting::new(path, deadline);
        sources.push(open_here(path, *options).map_err(|error| (position, error))?);
        opened.store(position + 1, Ordering::Release);
    }
    for (number, batch) in sources.chunks(BATCH).enumerate() {
        let mounts: Vec<_> = batch.iter().map(|source| source.mount.as_fd()).collect();
        let failed = |errno| failed(requests, number * BATCH, "pass its mount on", errno);
        pass(socket.as_fd(), &mounts).map_err(failed)?;
    }
    Ok(sources.into_iter().map(|source| source.file).collect())
}

fn pass(socket: BorrowedFd<'_>, mounts: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(mounts));
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(b"m")], &mut control, SendFlags::NOSIGNAL))
        .map(drop)
}

fn receive(socket: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags))?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(rights.flatten().collect())
}
