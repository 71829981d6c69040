//! Relays a process's terminal to the caller's, for a command in the foreground.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::stdio::stdout;
use rustix::termios::{Winsize, isatty, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::cli::terminal::{self, Input, RawMode};

/// Bytes of one read.
const READ: usize = 32 << 10;
/// Most bytes that are printed after the end of the process: others may have its terminal, and continue to print.
const REST: usize = 1 << 20;

/// Input is sent to the process, and its output is printed here.
pub struct Relay {
    master: AsyncFd<OwnedFd>,
    input: Option<Input>,
    /// Read, and not taken by the process yet.
    typed: Vec<u8>,
    output: Output,
    /// Until no process has the terminal open any more. Output may still have to be printed then.
    is_open: bool,
    raw: Option<RawMode>,
}

impl Relay {
    /// `master` of the process's terminal.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn new(master: OwnedFd) -> anyhow::Result<Self> {
        let raw = if isatty(rustix::stdio::stdin()) { Some(RawMode::enter()?) } else { None };
        ioctl_fionbio(&master, true)?;
        #[allow(deprecated, reason = "it owns the descriptor")]
        let master = AsyncFd::with_interest(master, Interest::READABLE | Interest::WRITABLE)?;
        let output = Output::new()?;
        Ok(Self { master, input: Some(Input::new()), typed: Vec::new(), output, is_open: true, raw })
    }

    /// Gives the process's terminal the size of the caller's.
    pub fn resize(&self) {
        copy_size(self.master.get_ref());
    }

    /// Relays the next piece. Without a relay it never returns.
    pub async fn step(relay: Option<&mut Self>) {
        let Some(Self { master, input, typed, output, is_open, .. }) = relay else {
            return std::future::pending().await;
        };
        tokio::select! {
            open = type_next(master, input.as_mut(), typed) => {
                if !open {
                    *input = None;
                    typed.clear();
                }
            }
            open = print_next(master, output), if *is_open => *is_open = open,
        }
    }

    /// Prints the rest of the output of a process that has ended.
    pub async fn finish(self) {
        let Self { master, output, is_open, raw, .. } = self;
        // No more keys are passed on: ctrl-c is a signal again.
        drop(raw);
        let mut count = 0;
        while is_open && count < REST {
            let Ok(bytes) = read(master.get_ref()) else { break };
            count += bytes.len();
            if output.pieces.send(bytes).await.is_err() {
                break;
            }
        }
        drop(output.pieces);
        // An error: the thread has ended.
        let _ = output.done.await;
    }
}

/// Reads keys, or writes those that were read. False at the end of the input or of the terminal.
async fn type_next(master: &AsyncFd<OwnedFd>, input: Option<&mut Input>, typed: &mut Vec<u8>) -> bool {
    let Some(input) = input else { return std::future::pending().await };
    if typed.is_empty() {
        *typed = input.read().await.unwrap_or_default();
        return !typed.is_empty();
    }
    let Ok(mut ready) = master.writable().await else { return false };
    match rustix::io::write(master.get_ref(), typed) {
        Ok(count) => drop(typed.drain(..count)),
        Err(Errno::AGAIN) => ready.clear_ready(),
        Err(Errno::INTR) => {}
        Err(_) => return false,
    }
    true
}

/// Reads once the last piece has been printed. False when no process has the terminal open any more. When printing
/// fails, the output is read and dropped: the process would block on its terminal otherwise.
async fn print_next(master: &AsyncFd<OwnedFd>, output: &Output) -> bool {
    let room = output.pieces.reserve().await.ok();
    let Ok(mut ready) = master.readable().await else { return false };
    match read(master.get_ref()) {
        Ok(bytes) => {
            if let Some(room) = room {
                room.send(bytes);
            }
        }
        Err(Errno::AGAIN) => ready.clear_ready(),
        Err(Errno::INTR) => {}
        Err(_) => return false,
    }
    true
}

/// Standard output, written by a thread: writing may block for a long time, and signals and the end of the process
/// are handled meanwhile.
struct Output {
    pieces: mpsc::Sender<Vec<u8>>,
    done: oneshot::Receiver<()>,
}

impl Output {
    fn new() -> std::io::Result<Self> {
        let (pieces, mut printed) = mpsc::channel::<Vec<u8>>(1);
        let (ended, done) = oneshot::channel();
        std::thread::Builder::new().spawn(move || {
            while let Some(bytes) = printed.blocking_recv() {
                if write_all(&stdout(), &bytes).is_err() {
                    break;
                }
            }
            drop(ended);
        })?;
        Ok(Self { pieces, done })
    }
}

/// Gives the terminal of `master` the size of the caller's.
pub fn copy_size(master: &OwnedFd) {
    if let Some(size) = terminal::size() {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // A terminal without a size works too.
        let _ = tcsetwinsize(master, size);
    }
}

/// Reads once from the terminal; EIO at its end.
fn read(master: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; READ];
    let count = rustix::io::read(master, &mut buffer[..])?;
    buffer.truncate(count);
    if count == 0 { Err(Errno::IO) } else { Ok(buffer) }
}

fn write_all(to: &impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_writable(to)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn wait_writable(to: &impl AsFd) -> Result<(), Errno> {
    use rustix::event::{PollFd, PollFlags, poll};
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(to, PollFlags::OUT)], None)).map(drop)
}
