//! Relays a process's terminal to the caller's, for a command in the foreground.

use rustix::fd::OwnedFd;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::stdio::stdout;
use rustix::termios::{Winsize, isatty, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cli::terminal::{self, Input, RawMode};

/// Bytes of one read.
const READ: usize = 32 << 10;

/// Input is sent to the process, and its output is printed here.
pub struct Relay {
    master: AsyncFd<OwnedFd>,
    input: Option<Input>,
    output_open: bool,
    _raw: Option<RawMode>,
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
        let master = AsyncFd::with_interest(master, Interest::READABLE)?;
        Ok(Self { master, input: Some(Input::new()), output_open: true, _raw: raw })
    }

    /// Gives the process's terminal the size of the caller's.
    pub fn resize(&self) {
        copy_size(self.master.get_ref());
    }

    /// Relays the next piece. Without a relay it never returns.
    pub async fn step(relay: Option<&mut Self>) {
        let Some(Self { master, input, output_open, .. }) = relay else {
            return std::future::pending().await;
        };
        let typed = async {
            match input.as_mut() {
                Some(input) => input.read().await.unwrap_or_default(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            bytes = typed => {
                if bytes.is_empty() || write_all(master.get_ref(), &bytes).is_err() {
                    *input = None;
                }
            }
            ready = master.readable(), if *output_open => {
                let Ok(mut ready) = ready else { return };
                match copy(master.get_ref()) {
                    Ok(()) => {}
                    Err(Errno::AGAIN) => ready.clear_ready(),
                    // No process has it open any more, or the output is closed.
                    Err(_) => *output_open = false,
                }
            }
        }
    }

    /// Prints the rest of the process's output.
    pub fn finish(self) {
        while copy(self.master.get_ref()).is_ok() {}
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

/// Copies one read from the terminal to standard output.
fn copy(master: &OwnedFd) -> Result<(), Errno> {
    let mut buffer = vec![0; READ];
    match rustix::io::read(master, &mut buffer[..])? {
        0 => Err(Errno::IO),
        count => write_all(&stdout(), &buffer[..count]),
    }
}

fn write_all(to: &impl rustix::fd::AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
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

fn wait_writable(to: &impl rustix::fd::AsFd) -> Result<(), Errno> {
    use rustix::event::{PollFd, PollFlags, poll};
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(to, PollFlags::OUT)], None)).map(drop)
}
