//! The containers' logs on one screen: every line with its container's name.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::stop_request::{StopRequest, StopRequests};
use crate::log::{Follower, Line, Stream};

/// Interval between reads of a log file.
const TICK: Duration = Duration::from_millis(50);
/// A line longer than this is shown in pieces.
const LONGEST_LINE: usize = 1 << 20;
/// Bytes that are still printed of a container that was stopped.
const LAST_PART: u64 = 1 << 20;
/// ANSI colours that are readable on dark and on light.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Writes the lines of one container.
#[derive(Debug, Clone)]
pub struct Printer {
    prefix: String,
    /// Prints only the content: no names, and parts of lines as they come.
    is_plain: bool,
    /// Beginnings of lines whose end is not written yet, by stream.
    open: [Vec<u8>; 2],
}

impl Printer {
    /// For container number `index`; `width` is that of the longest name.
    pub fn new(name: &str, index: usize, width: usize) -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let prefix = if colour {
            format!("\x1b[{}m{name:width$} |\x1b[0m ", COLOURS[index % COLOURS.len()])
        } else {
            format!("{name:width$} | ")
        };
        Self { prefix, is_plain: false, open: Default::default() }
    }

    /// For a container that has the whole screen.
    pub fn plain() -> Self {
        Self { prefix: String::new(), is_plain: true, open: Default::default() }
    }

    /// Prints a line that is not from the container.
    fn note(&mut self, text: &str) -> io::Result<()> {
        self.open = Default::default();
        writeln!(io::stderr().lock(), "{}{text}", self.prefix)
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        let open = &mut self.open[usize::from(line.stream == Stream::Stderr)];
        open.extend_from_slice(&line.content);
        if line.partial && !self.is_plain && open.len() < LONGEST_LINE {
            return Ok(());
        }
        let mut text = Vec::with_capacity(self.prefix.len() + open.len() + 1);
        text.extend_from_slice(self.prefix.as_bytes());
        text.append(open);
        if !(line.partial && self.is_plain) {
            text.push(b'\n');
        }
        // One write, so that lines of different containers do not mix.
        match line.stream {
            Stream::Stdout => {
                let mut out = io::stdout().lock();
                // Without a flush, a part of a line would stay in the buffer.
                out.write_all(&text).and_then(|()| out.flush())
            }
            Stream::Stderr => io::stderr().lock().write_all(&text),
        }
    }
}

/// The point up to which a log is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// No end: the container writes to it.
    Running,
    /// To the end of the file: the container has ended by itself.
    End,
    /// To the end, but only the last part: the container was stopped, and a slow screen must not delay the
    /// end of the run.
    LastPart,
    /// No further line.
    Now,
}

impl Until {
    fn of(request: StopRequest) -> Self {
        match request {
            StopRequest::None => Self::End,
            StopRequest::Stop { .. } => Self::LastPart,
            StopRequest::Kill { .. } => Self::Now,
        }
    }
}

/// Prints a container's log in its own thread, because a screen or a pipe may block. It is no thread of the
/// runtime's pool: that has 512, which the server in this process needs for its own work.
pub struct Output {
    until: mpsc::Sender<Until>,
    inode: Arc<AtomicU64>,
    /// Closed at the end of the thread.
    ended: oneshot::Receiver<()>,
}

impl Output {
    /// Prints the log at `path`, which need not exist yet.
    pub fn show(path: PathBuf, printer: Printer) -> Self {
        Self::show_until_closed(path, printer, || {})
    }

    /// The same; `closed` is called when the reader of the screen has left.
    pub fn show_until_closed(
        path: PathBuf,
        mut printer: Printer,
        closed: impl FnOnce() + Send + 'static,
    ) -> Self {
        let (until, changes) = mpsc::channel();
        let (running, ended) = oneshot::channel::<()>();
        let inode = Arc::new(AtomicU64::new(0));
        let shown = Arc::clone(&inode);
        let show = move || {
            match follow(&path, &mut printer, &changes, &shown) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => closed(),
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot show a log"),
            }
            drop(running);
        };
        if let Err(error) = std::thread::Builder::new().name("log".to_owned()).spawn(show) {
            tracing::warn!(%error, "cannot show a log: no thread");
        }
        Self { until, inode, ended }
    }

    /// The inode of the file that is being printed; 0 for none.
    pub fn inode(&self) -> u64 {
        self.inode.load(Ordering::Relaxed)
    }

    /// Waits until the rest is printed; stop requests shorten that. A thread that still waits for its screen
    /// after a kill request is abandoned.
    pub async fn finish(mut self, requests: &StopRequests) {
        loop {
            let request = requests.now();
            let _ = self.until.send(Until::of(request));
            if request.is_kill() {
                return;
            }
            tokio::select! {
                _ = &mut self.ended => return,
                _ = requests.wait_for(|next| next != request) => {}
            }
        }
    }
}

/// Prints the present content of the log. Returns false when it is empty.
///
/// # Errors
/// The file cannot be read, or the screen is closed.
pub fn print_log(path: &std::path::Path) -> io::Result<bool> {
    let (mut printer, mut is_any) = (Printer::plain(), false);
    Follower::new(path).read_what_is_there(&mut |line| {
        is_any = true;
        printer.line(&line)
    })?;
    Ok(is_any)
}

fn follow(
    path: &std::path::Path,
    printer: &mut Printer,
    changes: &mpsc::Receiver<Until>,
    inode: &AtomicU64,
) -> io::Result<()> {
    let mut follower = Follower::new(path);
    let (mut until, mut is_cut) = (Until::Running, false);
    loop {
        // Read before the file: output from before the end is then read after it.
        until = latest(changes, until);
        if until == Until::Now {
            return Ok(());
        }
        if until == Until::LastPart && !is_cut {
            is_cut = true;
            if follower.skip_to_last(LAST_PART)? {
                printer.note("[older lines are left out]")?;
            }
        }
        let any = follower.read(&mut |line| printer.line(&line))?;
        inode.store(follower.inode(), Ordering::Relaxed);
        if !any && until != Until::Running {
            return Ok(());
        }
        if !any {
            match changes.recv_timeout(TICK) {
                Ok(next) => until = next,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }
}

/// The last change, if there is one. A dropped sender counts as a kill request.
fn latest(changes: &mpsc::Receiver<Until>, mut until: Until) -> Until {
    loop {
        match changes.try_recv() {
            Ok(next) => until = next,
            Err(TryRecvError::Empty) => return until,
            Err(TryRecvError::Disconnected) => return Until::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_logs_hold_no_thread_of_the_pool() {
        let folder = tempfile::tempdir().unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let show = |n: usize| Output::show(folder.path().join(n.to_string()), Printer::plain());
            let shown: Vec<Output> = (0..3).map(show).collect();
            let work = tokio::task::spawn_blocking(|| ());
            tokio::time::timeout(Duration::from_secs(10), work).await.unwrap().unwrap();
            let requests = StopRequests::new();
            for output in shown {
                let ended = output.finish(&requests);
                tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
            }
        });
    }

    #[test]
    fn parts_of_a_line_are_put_together_per_stream() {
        let mut printer = Printer::new("web", 0, 5);
        assert!(printer.prefix.contains("web   |"), "{}", printer.prefix);
        let line = |stream, partial, content: &[u8]| Line {
            time: String::new(),
            stream,
            partial,
            content: content.into(),
        };
        printer.line(&line(Stream::Stdout, true, b"one ")).unwrap();
        printer.line(&line(Stream::Stderr, true, b"other ")).unwrap();
        assert_eq!(printer.open, [b"one ".to_vec(), b"other ".to_vec()]);
        printer.line(&line(Stream::Stdout, false, b"two")).unwrap();
        assert_eq!(printer.open, [Vec::new(), b"other ".to_vec()]);
    }
}
