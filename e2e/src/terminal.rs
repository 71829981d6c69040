//! A terminal with a program on it, as for a user.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::Result;

/// A wait that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// The user's side of the terminal. Dropping it kills the program.
pub struct Terminal {
    master: File,
    child: Child,
    pieces: Receiver<Vec<u8>>,
    /// The output that no wait has matched yet.
    text: String,
    all: String,
}

impl Terminal {
    /// Runs a program on a new terminal of this size, which is its controlling one.
    ///
    /// # Errors
    /// When there is no terminal, or no such program.
    pub fn run(program: &Command, columns: u16, rows: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        let stdio = |slave: &OwnedFd| -> Result<Stdio> { Ok(slave.try_clone()?.into()) };
        // As from a user's shell, also when the tests run with ignored signals.
        let mut command = Command::new("env");
        command
            .args(["--default-signal=HUP,INT,QUIT,TERM", "setsid", "--ctty", "--wait"])
            .arg(program.get_program())
            .args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(stdio(&slave)?).stdout(stdio(&slave)?).stderr(stdio(&slave)?);
        let mut this = Self::new(File::from(master), command.spawn()?)?;
        this.resize(columns, rows)?;
        Ok(this)
    }

    /// Runs a program in a shell, which uses the terminal before and after it. The exit code is
    /// [`CHANGED`](Self::CHANGED) when the program leaves the terminal in another state.
    ///
    /// The end of a session's first process resets a terminal, so without a shell such a change would not be
    /// visible.
    ///
    /// # Errors
    /// When there is no terminal.
    pub fn run_in_shell(program: &Command, columns: u16, rows: u16) -> Result<Self> {
        let line = format!(
            "trap : HUP INT TERM; before=$(stty -g); \"$@\"; code=$?; after=$(stty -g); \
             [ \"$before\" = \"$after\" ] || {{ echo \"$before before, $after after\"; exit {}; }}; exit $code",
            Self::CHANGED
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &line, "sh"]).arg(program.get_program()).args(program.get_args());
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Self::run(&shell, columns, rows)
    }

    /// The exit code of a shell whose program has changed the terminal.
    pub const CHANGED: i32 = 97;

    /// Sends a signal to the program of a shell.
    ///
    /// # Errors
    /// When the program has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The shell, which ignores these signals, leads the group.
        Ok(kill_process_group(Pid::from_child(&self.child), signal)?)
    }

    fn new(master: File, child: Child) -> Result<Self> {
        let (sender, pieces) = std::sync::mpsc::channel();
        let mut output = master.try_clone()?;
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                let _ = sender.send(piece[..length].to_vec());
            }
        });
        Ok(Self { master, child, pieces, text: String::new(), all: String::new() })
    }

    /// # Errors
    /// When the terminal is closed.
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        Ok(tcsetwinsize(&self.master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
    }

    /// # Errors
    /// When the terminal is closed.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Everything that the screen has shown so far.
    #[must_use]
    pub fn seen(&self) -> &str {
        &self.all
    }

    /// Waits until the screen shows `text` that it did not show before.
    ///
    /// # Errors
    /// When it does not show it within half a minute.
    pub fn until(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.text.find(text) {
                self.text.drain(..at + text.len());
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => {
                    let piece = String::from_utf8_lossy(&piece);
                    self.text.push_str(&piece);
                    self.all.push_str(&piece);
                }
                Err(_) => return Err(format!("{text:?} does not come; there is {:?}", self.text).into()),
            }
        }
    }

    /// For a shell: runs a command that only ^C ends, ends it with ^C, and then exits the shell.
    ///
    /// # Errors
    /// When the shell does not do so.
    pub fn interrupt_and_exit(&mut self, code: u8) -> Result<()> {
        self.type_text("echo run''ning; sleep 1000\n")?;
        self.until("running")?;
        // ^C discards the input that was typed before it.
        std::thread::sleep(Duration::from_millis(300));
        self.type_text("\x03")?;
        self.until("^C")?;
        self.type_text(&format!("exit {code}\n"))
    }

    /// Waits for the program to end; returns its exit code.
    ///
    /// # Errors
    /// When it does not end within half a minute.
    pub fn end(mut self) -> Result<Option<i32>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > deadline {
                return Err(format!("the program does not end; there is {:?}", self.text).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The program gets SIGHUP without its terminal; the process that waits for it is a child of ours.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
