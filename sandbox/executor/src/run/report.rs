//! Messages of a child to its monitor between clone and exec: a SOCK_SEQPACKET pair, closed by the
//! exec itself.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::error::{Stage, StageError};

/// Longest packet; longer details are cut, never lost.
const PACKET: usize = 4096;
/// Room for the stage, the error number and lengths around a cut detail.
const DETAIL: usize = PACKET - 64;

/// The monitor's end.
#[derive(Debug)]
pub struct Report(OwnedFd);

/// The child's end.
pub(crate) struct Reporter(OwnedFd);

/// How far a start has come.
#[derive(Debug)]
pub enum Progress {
    /// Nothing new; poll again.
    Pending,
    /// A setting could not be applied in full on this host: what was done instead.
    Note(StageError),
    /// The master side of the process's terminal.
    Terminal(OwnedFd),
    /// The child has ended or is about to, without having run anything of the container's.
    Failed(StageError),
    /// The process runs. Nothing follows.
    Executed,
}

#[derive(Serialize, Deserialize)]
enum Packet {
    Note(StageError),
    Terminal,
    Failed(StageError),
}

pub(crate) fn pair() -> Result<(Report, Reporter), Errno> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, childs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Report(ours), Reporter(childs)))
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Report {
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
            Packet::Note(note) => Ok(Progress::Note(note)),
            Packet::Failed(error) => Ok(Progress::Failed(error)),
            Packet::Terminal => master.map(Progress::Terminal).ok_or(Errno::BADMSG),
        }
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Reporter {
    pub(crate) fn note(&self, stage: Stage, detail: String) {
        self.send(&Packet::Note(cut(StageError { stage, errno: 0, detail })), &[]);
    }

    pub(crate) fn failed(&self, error: StageError) {
        self.send(&Packet::Failed(cut(error)), &[]);
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
        let _ = sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
    }
}

fn cut(mut error: StageError) -> StageError {
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
        assert!(matches!(report.receive(), Ok(Progress::Note(note)) if note.detail == "soft"));
        assert!(matches!(report.receive(), Ok(Progress::Terminal(_))));
        assert!(matches!(report.receive(), Ok(Progress::Failed(error)) if error.detail.len() == DETAIL));
        drop(reporter);
        assert!(matches!(report.receive(), Ok(Progress::Executed)));
    }
}
