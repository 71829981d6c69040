//! A connection to systemd, over the system bus or straight to it.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::Socket;
use super::error::SystemdError;
use super::message::{Call, Content, FIXED, Message, Value, Writer, total};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// Of the line that answers the handshake.
const LINE_MAX: usize = 1024;

/// An open connection, for one unit.
pub(super) struct Bus<'a> {
    stream: UnixStream,
    socket: &'a Socket,
    unit: &'a str,
    patience: Patience<'a>,
    serial: u32,
}

/// The calls that nothing waits for: an error that answers one of them is an error of what comes after.
const HELLO: &str = "Hello";
const ADD_MATCH: &str = "AddMatch";
const START: &str = "StartTransientUnit";

impl<'a> Bus<'a> {
    /// Shakes hands (D-Bus specification, "Authentication Protocol"), and on a bus asks for the signal that
    /// ends a job of `unit`.
    pub(super) async fn open(
        stream: UnixStream,
        socket: &'a Socket,
        answer: Duration,
        unit: &'a str,
    ) -> Result<Self, SystemdError> {
        let patience = Patience { socket, unit, after: answer };
        let mut bus = Self { stream, socket, unit, patience, serial: 0 };
        patience.wait("the handshake", bus.authenticate()).await?;
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

    /// Makes the unit and waits until it is there.
    pub(super) async fn start_transient_unit(
        &mut self,
        unit: &str,
        properties: &[(&str, Value)],
    ) -> Result<(), SystemdError> {
        let mut body = Writer::default();
        body.string(unit);
        // A unit of this name is never taken over.
        body.string("fail");
        body.array(8, |all| properties.iter().for_each(|(name, value)| all.property(name, value)));
        // Other units that go with it: none.
        body.array(8, |_| {});
        let call = Call {
            destination: SYSTEMD,
            path: MANAGER_PATH,
            interface: MANAGER,
            member: START,
            signature: "ssa(sv)a(sa(sv))",
        };
        let serial = self.send(&call, &body).await?;
        let (patience, mut job) = (self.patience, Job::default());
        patience.wait("the answer to StartTransientUnit", self.answered(&mut job, serial)).await?;
        patience.wait("the end of the job", self.ended(&mut job, serial)).await?;
        match job.result() {
            None | Some("done") => Ok(()),
            Some(result) => Err(SystemdError::Job { unit: unit.to_owned(), result: result.to_owned() }),
        }
    }

    async fn answered(&mut self, job: &mut Job, serial: u32) -> Result<(), SystemdError> {
        while job.path.is_none() {
            self.advance(job, serial).await?;
        }
        Ok(())
    }

    async fn ended(&mut self, job: &mut Job, serial: u32) -> Result<(), SystemdError> {
        while job.result().is_none() {
            self.advance(job, serial).await?;
        }
        Ok(())
    }

    /// Takes the next message into account.
    async fn advance(&mut self, job: &mut Job, serial: u32) -> Result<(), SystemdError> {
        let message = self.receive().await?;
        let reply_to = message.reply_to;
        match message.content(MANAGER) {
            Content::Return { first: Some(path) } if reply_to == Some(serial) => job.path = Some(path),
            Content::Return { first: None } if reply_to == Some(serial) => {
                return Err(self.malformed("an answer without a job"));
            }
            Content::JobRemoved { job: path, unit, result } if unit == self.unit => {
                job.ended.push((path, result));
            }
            Content::Error { name, message } if reply_to.is_some_and(|to| to <= serial) => {
                let call = match serial - reply_to.unwrap_or(serial) {
                    0 => START,
                    1 => ADD_MATCH,
                    _ => HELLO,
                };
                return Err(SystemdError::Error { call, unit: self.unit.to_owned(), name, message });
            }
            // Other units' jobs, which systemd's own socket tells too, and the bus's own signals.
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
            return Err(SystemdError::Refused { socket: self.socket.path.clone(), answer: line });
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
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    async fn send(&mut self, call: &Call<'_>, body: &Writer) -> Result<u32, SystemdError> {
        self.serial += 1;
        let bytes = call.write(self.serial, body);
        let patience = self.patience;
        patience.wait(call.member, self.write(&bytes)).await?;
        Ok(self.serial)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), SystemdError> {
        self.stream.write_all(bytes).await.map_err(|error| self.broken(error))
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
        self.stream.read_exact(buffer).await.map(drop).map_err(|error| self.broken(error))
    }

    fn broken(&self, source: io::Error) -> SystemdError {
        SystemdError::Broken { socket: self.socket.path.clone(), unit: self.unit.to_owned(), source }
    }

    fn malformed(&self, what: &'static str) -> SystemdError {
        SystemdError::Malformed { socket: self.socket.path.clone(), what }
    }
}

/// How long each answer about a unit may take.
#[derive(Debug, Clone, Copy)]
struct Patience<'a> {
    socket: &'a Socket,
    unit: &'a str,
    after: Duration,
}

impl Patience<'_> {
    async fn wait<T>(
        self,
        what: &'static str,
        work: impl Future<Output = Result<T, SystemdError>>,
    ) -> Result<T, SystemdError> {
        let Self { socket, unit, after } = self;
        match tokio::time::timeout(after, work).await {
            Ok(result) => result,
            Err(_) => {
                let (socket, unit) = (socket.path.clone(), unit.to_owned());
                Err(SystemdError::Silent { socket, unit, what, after })
            }
        }
    }
}

/// What is known of the job that starts the unit.
#[derive(Debug, Default)]
struct Job {
    /// Its object.
    path: Option<String>,
    /// Jobs of the unit that have ended, with their results: the signal may be faster than the answer.
    ended: Vec<(String, String)>,
}

impl Job {
    fn result(&self) -> Option<&str> {
        let path = self.path.as_ref()?;
        self.ended.iter().find(|(ended, _)| ended == path).map(|(_, result)| result.as_str())
    }
}
