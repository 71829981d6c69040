//! kubectl, as users run it.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::programs::KUBECTL;

/// A command that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// The transport of kubectl's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Spdy,
    WebSocket,
}

/// kubectl for one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    transport: Transport,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: PathBuf, transport: Transport) -> Self {
        Self { kubeconfig, transport }
    }

    /// The command, for a terminal.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        self.with(Command::new(KUBECTL.path()), args)
    }

    /// The command, with a time limit of a minute.
    fn limited(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg(LIMIT.as_secs().to_string()).arg(KUBECTL.path());
        self.with(command, args)
    }

    fn with(&self, mut command: Command, args: &[&str]) -> Command {
        let is_websocket = if self.transport == Transport::WebSocket { "true" } else { "false" };
        command.args(args);
        command.env("KUBECONFIG", &self.kubeconfig);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", is_websocket);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", is_websocket);
        // The parent of its cache folders.
        command.env("HOME", self.kubeconfig.parent().unwrap_or(&self.kubeconfig));
        command
    }

    /// Runs the command and returns its output.
    ///
    /// # Errors
    /// The error output when it fails.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.run_with(args, b"")
    }

    /// Like [`run`](Self::run), with bytes for its standard input.
    ///
    /// # Errors
    /// The error output when it fails.
    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Result<String> {
        let (code, output, errors) = self.outcome(args, input)?;
        if code == Some(0) {
            return Ok(output);
        }
        Err(format!("kubectl {args:?} ended with {code:?}: {output}{errors}").into())
    }

    /// Runs the command and returns its exit code, and its output on both streams.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn outcome(&self, args: &[&str], input: &[u8]) -> Result<(Option<i32>, String, String)> {
        let mut command = self.limited(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (mut stdin, input) = (child.stdin.take().ok_or("no standard input")?, input.to_vec());
        // A command that does not read its input has not failed.
        let writing = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output()?;
        let _ = writing.join();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    }

    /// Starts the command in the background; dropping the result ends it. Errors are part of its output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, args: &[&str]) -> Result<Started> {
        let mut command = self.limited(args);
        let (mut output, printed) = std::io::pipe()?;
        let child = command.stdin(Stdio::piped()).stdout(printed.try_clone()?).stderr(printed).spawn()?;
        // The command value holds ends of the pipe, too.
        drop(command);
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                let _ = sender.send(String::from_utf8_lossy(&piece[..length]).into_owned());
            }
        });
        Ok(Started { child, pieces: lines, text: String::new() })
    }
}

/// A kubectl that is running.
pub struct Started {
    child: Child,
    pieces: std::sync::mpsc::Receiver<String>,
    text: String,
}

impl Started {
    /// Waits until it has printed `text`, and returns its whole output.
    ///
    /// # Errors
    /// When it does not print it within a minute.
    pub fn until(&mut self, text: &str) -> Result<&str> {
        let deadline = Instant::now() + LIMIT;
        while !self.text.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.text.push_str(&piece),
                Err(error) => return Err(format!("{text:?} is not in {:?}: {error}", self.text).into()),
            }
        }
        Ok(&self.text)
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    /// When it has closed its standard input.
    pub fn write(&mut self, text: &str) -> Result<()> {
        Ok(self.child.stdin.as_mut().ok_or("no standard input")?.write_all(text.as_bytes())?)
    }

    /// Closes its standard input, waits for it to end, and returns its exit code.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn end(mut self) -> Result<Option<i32>> {
        drop(self.child.stdin.take());
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // `timeout` passes the signal on.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
