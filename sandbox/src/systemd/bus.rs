//! A connection to systemd, over the system bus or directly.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::Socket;
use super::error::SystemdError;
use super::message::{Content, FIXED, Message, total};
use super::writer::{Call, Value, Writer};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// Limit for a line of the handshake.
const LINE_MAX: usize = 1024;
/// Limit for job ends that are kept until the relevant job is known: any client of a bus can send a signal
/// that looks like it.
const EARLY_MAX: usize = 16;

/// An open connection, for one unit.
pub(super) struct Bus<'a> {
    stream: BufReader<UnixStream>,
    timeout: CallTimeout<'a>,
    serial: u32,
}

/// The calls without a wait: an error for one of them is an error of the calls after it.
const HELLO: &str = "Hello";
const ADD_MATCH: &str = "AddMatch";
pub(super) const START: &str = "StartTransientUnit";

impl<'a> Bus<'a> {
    /// Connects and authenticates (D-Bus specification, "Authentication Protocol"); on a bus, subscribes to
    /// the signal for the end of the unit's job.
    pub(super) async fn open(timeout: CallTimeout<'a>) -> Result<Self, SystemdError> {
        let CallTimeout { socket, unit, .. } = timeout;
        let connect =
            async { UnixStream::connect(&socket.path).await.map_err(|error| timeout.broken(error)) };
        let stream = BufReader::new(timeout.wait("a connection", connect).await?);
        let mut bus = Self { stream, timeout, serial: 0 };
        timeout.wait("the handshake", bus.authenticate()).await?;
        if socket.is_bus {
            let call = |member, signature| Call {
                destination: BUS,
                path: BUS_PATH,
                interface: BUS,
                member,
                signature,
            };
            let rule = format!(
                "type='signal',sender='{SYSTEMD}',path='{MANAGER_PATH}',interface='{MANAGER}',member='JobRemoved',arg2='{unit}'"
            );
            let mut body = Writer::default();
            body.string(&rule);
            bus.send(&call(HELLO, ""), &Writer::default()).await?;
            bus.send(&call(ADD_MATCH, "s"), &body).await?;
        }
        Ok(bus)
    }

    /// Makes the unit and waits until it exists.
    pub(super) async fn start_transient_unit(
        &mut self,
        unit: &str,
        properties: &[(&str, Value)],
    ) -> Result<(), SystemdError> {
        let mut body = Writer::default();
        body.string(unit);
        // An existing unit of this name is never replaced.
        body.string("fail");
        body.array(8, |all| properties.iter().for_each(|(name, value)| all.property(name, value)));
        // Other units that are started with it: none.
        body.array(8, |_| {});
        let call = Call {
            destination: SYSTEMD,
            path: MANAGER_PATH,
            interface: MANAGER,
            member: START,
            signature: "ssa(sv)a(sa(sv))",
        };
        let serial = self.send(&call, &body).await?;
        let (timeout, mut job) = (self.timeout, Job::default());
        timeout.wait("the answer to StartTransientUnit", self.response_to(&mut job, serial)).await?;
        match timeout.wait("the end of the job", self.ended(&mut job, serial)).await?.as_str() {
            "done" => Ok(()),
            result => Err(SystemdError::Job { unit: unit.to_owned(), result: result.to_owned() }),
        }
    }

    async fn response_to(&mut self, job: &mut Job, serial: u32) -> Result<(), SystemdError> {
        while job.started.is_none() {
            self.advance(job, serial).await?;
        }
        Ok(())
    }

    async fn ended(&mut self, job: &mut Job, serial: u32) -> Result<String, SystemdError> {
        loop {
            if let Some(result) = job.result() {
                return Ok(result);
            }
            self.advance(job, serial).await?;
        }
    }

    /// Handles the next message.
    async fn advance(&mut self, job: &mut Job, serial: u32) -> Result<(), SystemdError> {
        let message = self.receive().await?;
        let (reply_to, sender) = (message.reply_to, message.sender.clone());
        let of_manager = message.path == MANAGER_PATH;
        match message.content(MANAGER) {
            Content::Return { first: Some(path) } if reply_to == Some(serial) => {
                job.started = Some((path, sender));
            }
            Content::Return { first: None } if reply_to == Some(serial) => {
                return Err(self.malformed("an answer without a job"));
            }
            Content::JobRemoved { job: path, unit, result } if of_manager && unit == self.timeout.unit => {
                job.note_end(End { job: (path, sender), result });
            }
            Content::Error { name, message } if reply_to.is_some_and(|to| to <= serial) => {
                let call = match serial - reply_to.unwrap_or(serial) {
                    0 => START,
                    1 => ADD_MATCH,
                    _ => HELLO,
                };
                let unit = self.timeout.unit.to_owned();
                return Err(SystemdError::Error { call, unit, name, message });
            }
            // Other units' jobs, which systemd's own socket reports too, and the bus's own signals.
            _ => {}
        }
        Ok(())
    }

    async fn authenticate(&mut self) -> Result<(), SystemdError> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let mut hello = String::from("\0AUTH EXTERNAL ");
        for byte in uid.bytes() {
            let _ = write!(hello, "{byte:02x}");
        }
        hello.push_str("\r\n");
        self.write(hello.as_bytes()).await?;
        let line = self.line().await?;
        if !line.starts_with("OK ") {
            let socket = self.timeout.socket.path.clone();
            return Err(SystemdError::Refused { socket, answer: line });
        }
        self.write(b"BEGIN\r\n").await
    }

    /// Nothing follows the line until BEGIN was sent.
    async fn line(&mut self) -> Result<String, SystemdError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > LINE_MAX {
                return Err(self.malformed("a line without end"));
            }
            match self.stream.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(error) => return Err(self.timeout.broken(error)),
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    async fn send(&mut self, call: &Call<'_>, body: &Writer) -> Result<u32, SystemdError> {
        self.serial += 1;
        let bytes = call.write(self.serial, body);
        let timeout = self.timeout;
        timeout.wait(call.member, self.write(&bytes)).await?;
        Ok(self.serial)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), SystemdError> {
        self.stream.write_all(bytes).await.map_err(|error| self.timeout.broken(error))
    }

    async fn receive(&mut self) -> Result<Message, SystemdError> {
        let mut fixed = [0; FIXED];
        self.read(&mut fixed).await?;
        let total = total(&fixed).ok_or_else(|| self.malformed("a message's header"))?;
        let mut bytes = fixed.to_vec();
        bytes.resize(total, 0);
        self.read(&mut bytes[FIXED..]).await?;
        Message::parse(&bytes).ok_or_else(|| self.malformed("a message"))
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Result<(), SystemdError> {
        self.stream.read_exact(buffer).await.map(drop).map_err(|error| self.timeout.broken(error))
    }

    fn malformed(&self, what: &'static str) -> SystemdError {
        SystemdError::Malformed { socket: self.timeout.socket.path.clone(), what }
    }
}

/// Time limits for each response about a unit, and for all of them together.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallTimeout<'a> {
    pub socket: &'a Socket,
    pub unit: &'a str,
    pub answer: Duration,
    pub deadline: Instant,
}

impl CallTimeout<'_> {
    async fn wait<T>(
        self,
        what: &'static str,
        work: impl Future<Output = Result<T, SystemdError>>,
    ) -> Result<T, SystemdError> {
        let Self { socket, unit, answer, deadline } = self;
        let begun = Instant::now();
        let until = deadline.min(begun + answer);
        match tokio::time::timeout_at(until, work).await {
            Ok(result) => result,
            Err(_) => {
                let (socket, unit) = (socket.path.clone(), unit.to_owned());
                let after = until.saturating_duration_since(begun);
                Err(SystemdError::Silent { socket, unit, what, seconds: after.as_secs_f32() })
            }
        }
    }

    fn broken(&self, source: io::Error) -> SystemdError {
        SystemdError::Broken { socket: self.socket.path.clone(), unit: self.unit.to_owned(), source }
    }
}

/// A job's object, and the name of the sender of its signals: only this sender is trusted.
type JobId = (String, String);

#[derive(Debug)]
struct End {
    job: JobId,
    result: String,
}

/// The state of the job that starts the unit.
#[derive(Debug, Default)]
struct Job {
    started: Option<JobId>,
    /// Ended jobs of the unit: the signal may come before the response.
    ends: Vec<End>,
}

impl Job {
    fn note_end(&mut self, end: End) {
        let counts = self.started.as_ref().map_or(self.ends.len() < EARLY_MAX, |job| *job == end.job);
        if counts {
            self.ends.push(end);
        }
    }

    fn result(&self) -> Option<String> {
        let job = self.started.as_ref()?;
        self.ends.iter().find(|end| end.job == *job).map(|end| end.result.clone())
    }
}
