//! Messages of a child to its monitor between clone and exec: a SOCK_SEQPACKET pair, closed by the
//! exec itself.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::error::{At, Stage, StageError};

/// Longest packet; longer details are cut, never lost.
const PACKET: usize = 4096;
/// Room for the stage, the error number and lengths around a cut detail.
const DETAIL: usize = PACKET - 64;
/// The same for each of several notes.
const NOTE: usize = 16;

/// The monitor's end.
#[derive(Debug)]
pub struct Report(OwnedFd);

/// The child's end.
pub(crate) struct Reporter {
    socket: OwnedFd,
    /// Sent together: each message wakes the monitor, often in the place of the child.
    notes: RefCell<Vec<StageError>>,
}

/// How far a start has come.
#[derive(Debug)]
pub enum Progress {
    /// Nothing new; poll again.
    Pending,
    /// Settings could not be applied in full on this host: what was done instead.
    Notes(Vec<StageError>),
    /// The master side of the process's terminal.
    Terminal(OwnedFd),
    /// The process has its namespaces and mounts, and waits for [`Report::proceed`] before it switches to its root.
    Prepared,
    /// The process waits at its start gate, ready to exec. Nothing follows here.
    Waiting,
    /// The child has ended or is about to, without having run anything of the container's.
    Failed(StageError),
    /// The process runs. Nothing follows.
    Executed,
}

#[derive(Serialize, Deserialize)]
enum Packet {
    Notes(Vec<StageError>),
    Terminal,
    Failed(StageError),
    Waiting,
    Prepared,
}

pub(crate) fn pair() -> Result<(Report, Reporter), Errno> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, childs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Report(ours), Reporter { socket: childs, notes: RefCell::default() }))
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Report {
    /// The caller's end of such a pair.
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<OwnedFd> for Reporter {
    fn from(socket: OwnedFd) -> Self {
        Self { socket, notes: RefCell::default() }
    }
}

impl Report {
    /// Lets a process go on that is [`Progress::Prepared`].
    ///
    /// # Errors
    /// As send(2): EPIPE when it has ended.
    pub fn proceed(&self) -> Result<(), Errno> {
        rustix::io::retry_on_intr(|| send(&self.0, &[0], SendFlags::NOSIGNAL)).map(drop)
    }

    /// Waits for the next thing that the child has to say.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn wait(&self) -> Result<Progress, Errno> {
        loop {
            rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None))?;
            match self.receive()? {
                Progress::Pending => {}
                progress => return Ok(progress),
            }
        }
    }

    /// Takes the next thing that the child had to say, without waiting.
    ///
    /// [`Progress::Executed`] also comes when the child was killed before it could exec: its exit
    /// then arrives by the pidfd like any other.
    ///
    /// # Errors
    /// As `recvmsg`; [`Errno::BADMSG`] for a packet that is not one of ours.
    pub fn receive(&self) -> Result<Progress, Errno> {
        let mut bytes = vec![0u8; PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Progress::Pending),
            // A child that was killed with packets unread on its own side.
            Err(Errno::CONNRESET) => return Ok(Progress::Executed),
            Err(error) => return Err(error),
        };
        if got.bytes == 0 {
            return Ok(Progress::Executed);
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(Errno::BADMSG);
        }
        let master = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match postcard::from_bytes(&bytes[..got.bytes]).map_err(|_| Errno::BADMSG)? {
            Packet::Notes(notes) => Ok(Progress::Notes(notes)),
            Packet::Failed(error) => Ok(Progress::Failed(error)),
            Packet::Waiting => Ok(Progress::Waiting),
            Packet::Prepared => Ok(Progress::Prepared),
            Packet::Terminal => master.map(Progress::Terminal).ok_or(Errno::BADMSG),
        }
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Reporter {
    /// Goes out with [`send_notes`](Self::send_notes), or before a failure.
    pub(crate) fn note(&self, stage: Stage, detail: String) {
        self.notes.borrow_mut().push(cut(StageError { stage, errno: 0, detail }));
    }

    /// To be called before the process gives up what sending takes.
    pub(crate) fn send_notes(&self) {
        let mut batch = Vec::new();
        let mut length = 0;
        for note in self.notes.take() {
            if length + note.detail.len() > DETAIL {
                self.send(&Packet::Notes(std::mem::take(&mut batch)), &[]);
                length = 0;
            }
            length += note.detail.len() + NOTE;
            batch.push(note);
        }
        if !batch.is_empty() {
            self.send(&Packet::Notes(batch), &[]);
        }
    }

    /// Written, not sent: the seccomp filter of a process that writes at all lets that pass.
    pub(crate) fn failed(&self, error: StageError) {
        self.send_notes();
        if let Ok(bytes) = postcard::to_allocvec(&Packet::Failed(cut(error))) {
            let _ = rustix::io::write(&self.socket, &bytes);
        }
    }

    /// For [`Progress::Prepared`]: returns when the other end says so.
    pub(crate) fn wait_to_proceed(&self) -> Result<(), StageError> {
        self.send(&Packet::Prepared, &[]);
        let answer = rustix::io::retry_on_intr(|| recv(&self.socket, &mut [0; 1][..], RecvFlags::empty()));
        match answer.at(Stage::SwitchRoot, "wait for hooks")? {
            (0, _) => Err(StageError::explained(
                Stage::SwitchRoot,
                Errno::PIPE,
                "wait for hooks: the caller has ended",
            )),
            _ => Ok(()),
        }
    }

    /// For [`Progress::Waiting`].
    pub(crate) fn waiting(&self) {
        self.send(&Packet::Waiting, &[]);
    }

    pub(crate) fn terminal(&self, master: BorrowedFd<'_>) {
        self.send(&Packet::Terminal, &[master]);
    }

    /// A failure to send is ignored: the monitor is gone or its buffer is full, and the child goes on.
    fn send(&self, packet: &Packet, fds: &[BorrowedFd<'_>]) {
        let Ok(bytes) = postcard::to_allocvec(packet) else { return };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let _ = sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
    }
}

/// Shortens a detail that does not fit into a packet.
pub(super) fn cut(mut error: StageError) -> StageError {
    if error.detail.len() > DETAIL {
        let end = (0..=DETAIL).rev().find(|&at| error.detail.is_char_boundary(at)).unwrap_or(0);
        error.detail.truncate(end);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_in_order_and_the_end_means_exec() {
        let (report, reporter) = pair().unwrap();
        assert!(matches!(report.receive(), Ok(Progress::Pending)));
        reporter.note(Stage::Limit, "soft".into());
        reporter.terminal(std::io::stdin().as_fd());
        reporter.failed(StageError::new(Stage::Exec, Errno::NOENT, "x".repeat(10_000)));
        assert!(matches!(report.receive(), Ok(Progress::Terminal(_))));
        assert!(matches!(report.receive(), Ok(Progress::Notes(notes)) if notes[0].detail == "soft"));
        assert!(matches!(report.receive(), Ok(Progress::Failed(error)) if error.detail.len() == DETAIL));
        drop(reporter);
        assert!(matches!(report.receive(), Ok(Progress::Executed)));
    }

    #[test]
    fn notes_come_together_and_all_of_many_come() {
        let (report, reporter) = pair().unwrap();
        let mut received = Vec::new();
        for details in [vec!["a".to_owned(), "b".to_owned()], vec!["x".repeat(1000); 9]] {
            details.iter().for_each(|detail| reporter.note(Stage::Limit, detail.clone()));
            reporter.send_notes();
            let mut of_these = Vec::new();
            while let Ok(Progress::Notes(notes)) = report.receive() {
                of_these.push(notes.into_iter().map(|note| note.detail).collect::<Vec<_>>());
            }
            assert_eq!(of_these.concat(), details);
            received.push(of_these.len());
        }
        assert_eq!(received, [1, 3]);
    }
}
