//! The user's terminal while a container's program uses it.

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};

use crisp_streaming::{Size, StreamWriter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::detach_keys::DetachKeys;
use super::signals::Signals;
use crate::print;

/// Bytes of one read.
const READ: usize = 32 << 10;

/// Sends keys to the program unchanged, until this is dropped or the process panics.
pub struct RawMode(Termios);

/// # Errors
/// Standard input is no terminal.
pub fn require() -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        anyhow::bail!("standard input is not a terminal: leave out -t");
    }
    Ok(())
}

impl RawMode {
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter() -> anyhow::Result<Self> {
        let saved = tcgetattr(stdin())?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        let for_panic = saved.clone();
        let hook = std::panic::take_hook();
        // A release build aborts on a panic and drops nothing.
        std::panic::set_hook(Box::new(move |panic| {
            restore(&for_panic);
            hook(panic);
        }));
        Ok(Self(saved))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore(&self.0);
    }
}

fn restore(saved: &Termios) {
    let _ = tcsetattr(stdin(), OptionalActions::Now, saved);
}

/// Runs `prompt` while typed characters are not shown. A signal that ends this program restores the terminal
/// first.
///
/// # Errors
/// Standard input is no terminal.
#[expect(clippy::disallowed_methods, reason = "what a signal ends has no destructors to run but this one")]
pub fn without_echo<T>(prompt: impl FnOnce() -> T) -> anyhow::Result<T> {
    let saved = tcgetattr(stdin())?;
    let mut quiet = saved.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    let changed = Arc::new(Mutex::new(Some(saved)));
    let restore_once = |changed: &Mutex<Option<Termios>>| {
        if let Some(saved) = changed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            restore(&saved);
            print::best_effort("");
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _context = runtime.enter();
        Signals::new()?
    };
    let at_signal = changed.clone();
    // Runs to the end of this program: these signals no longer end it by themselves.
    std::thread::spawn(move || {
        let number = runtime.block_on(signals.next());
        restore_once(&at_signal);
        std::process::exit(128 + i32::from(number));
    });
    tcsetattr(stdin(), OptionalActions::Now, &quiet)?;
    let answer = prompt();
    restore_once(&changed);
    Ok(answer)
}

/// The terminal's size. None without a terminal.
pub fn size() -> Option<Size> {
    let size = tcgetwinsize(stdin()).or_else(|_| tcgetwinsize(stdout())).ok()?;
    Some(Size { columns: size.ws_col, rows: size.ws_row })
}

/// Reads standard input without a thread: a thread that reads a terminal cannot be ended.
pub struct Input {
    /// None for input that the kernel cannot wait for, such as a file; such input is always ready.
    ready: Option<AsyncFd<BorrowedFd<'static>>>,
}

impl Input {
    pub fn new() -> Self {
        // Deprecated for descriptors that change; standard input never does.
        #[allow(deprecated)]
        let ready = AsyncFd::with_interest(stdin(), Interest::READABLE).ok();
        Self { ready }
    }

    /// The next bytes; empty at the end.
    pub async fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; READ];
        let bytes = match &self.ready {
            None => rustix::io::read(stdin(), &mut buffer[..])?,
            Some(ready) => {
                let mut guard = ready.readable().await?;
                // The descriptor may be blocking, because others share it: one read after it became ready
                // does not block.
                let bytes = rustix::io::read(stdin(), &mut buffer[..])?;
                // Readiness is reported only for new data, not for the rest of the old.
                if !is_readable() {
                    guard.clear_ready();
                }
                bytes
            }
        };
        buffer.truncate(bytes);
        Ok(buffer)
    }
}

fn is_readable() -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Sends standard input until its end, then closes the stream. Returns true when the user detached.
pub async fn send_input(to: Option<StreamWriter>, mut detach: Option<DetachKeys>) -> bool {
    let Some(mut to) = to else { return std::future::pending().await };
    let mut input = Input::new();
    loop {
        let bytes = match input.read().await {
            Ok(bytes) if !bytes.is_empty() => bytes,
            _ => break,
        };
        let bytes = match &mut detach {
            None => bytes,
            Some(keys) => match keys.filter(&bytes) {
                Some(bytes) => bytes,
                None => return true,
            },
        };
        if to.write(&bytes).await.is_err() {
            break;
        }
    }
    let _ = to.close().await;
    std::future::pending().await
}
