//! The connection that the clones of a link share, and the task that dispatches incoming messages.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crisp_monitor::wire::response::Event;
use crisp_monitor::wire::{
    EncodeError, Failure, Header, Kind, MAX_BODY, MAX_DESCRIPTORS, Message, Op, Packet, ReceiveError, packet,
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

use super::LinkError;
use super::execs::Execs;

/// The number of events that a slow receiver may be behind before it must request a report.
const EVENTS: usize = 256;

/// Time limit for sending a request whose response is dropped. The request keeps the connection open
/// meanwhile.
const UNANSWERED: Duration = Duration::from_secs(600);

pub(super) struct Connection {
    pub(super) monitor: PathBuf,
    pub(super) execs: Execs,
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    /// None once the connection is over.
    open: Mutex<Option<Open>>,
}

struct Open {
    waiting: HashMap<u64, oneshot::Sender<Packet>>,
    events: broadcast::Sender<Event>,
}

/// Reads from its start until the last link is dropped.
#[derive(Default)]
pub(super) struct Reader(OnceLock<JoinHandle<()>>);

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

impl Reader {
    /// Does nothing when it has started.
    pub(super) fn start(&self, connection: &Arc<Connection>) {
        self.0.get_or_init(|| {
            let connection = Arc::clone(connection);
            tokio::spawn(async move {
                let over = connection.read().await;
                if !matches!(over, ReceiveError::Closed) {
                    tracing::warn!(monitor = %connection.monitor.display(), "connection to monitor ended: {over}");
                }
                connection.close();
            })
        });
    }
}

/// Removes a waiter when its request is dropped.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.connection.lock().as_mut() {
            open.waiting.remove(&self.id);
        }
    }
}

impl Connection {
    pub(super) fn new(monitor: PathBuf, socket: OwnedFd) -> Result<Self, LinkError> {
        let fail = |error: std::io::Error| LinkError::Connect {
            monitor: monitor.clone(),
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        };
        // Deprecated for descriptors that change; an `OwnedFd` always is one socket.
        #[allow(deprecated)]
        let socket = AsyncFd::with_interest(socket, Interest::READABLE).map_err(fail)?;
        let (events, _) = broadcast::channel(EVENTS);
        let open = Mutex::new(Some(Open { waiting: HashMap::new(), events }));
        Ok(Self { monitor, execs: Execs::default(), socket, next: AtomicU64::new(1), open })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_none()
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        match &*self.lock() {
            Some(open) => open.events.subscribe(),
            // The sender is dropped here, which closes the channel.
            None => broadcast::channel(1).1,
        }
    }

    async fn read(&self) -> ReceiveError {
        loop {
            let read = self.socket.async_io(Interest::READABLE, |socket| match packet::receive(socket) {
                Ok(Some(packet)) => Ok(Ok(packet)),
                Ok(None) => Err(std::io::ErrorKind::WouldBlock.into()),
                Err(over) => Ok(Err(over)),
            });
            match read.await {
                Ok(Ok(packet)) => self.sort(packet),
                Ok(Err(over)) => return over,
                Err(error) => {
                    return ReceiveError::System(Errno::from_io_error(&error).unwrap_or(Errno::IO));
                }
            }
        }
    }

    fn sort(&self, packet: Packet) {
        match packet.header.kind {
            Kind::Response => {
                let waiter = self.lock().as_mut().and_then(|open| open.waiting.remove(&packet.header.id));
                // Without a waiter the packet is dropped here, which closes its descriptors.
                if let Some(waiter) = waiter {
                    let _ = waiter.send(packet);
                }
            }
            Kind::Event => self.publish(&packet.body),
            Kind::Request => {}
        }
    }

    fn publish(&self, body: &[u8]) {
        match Event::decode(body) {
            Ok(Event::ExecExited { exec, status, .. }) => self.execs.ended(exec, status),
            Ok(event) => {
                if let Some(open) = &*self.lock() {
                    let _ = open.events.send(event);
                }
            }
            // A newer monitor may send events that this server does not know.
            Err(error) => {
                tracing::debug!(monitor = %self.monitor.display(), "event of unknown kind: {error}");
            }
        }
    }

    /// Ends all waits: each receiver's channel closes.
    fn close(&self) {
        let open = self.lock().take();
        self.execs.clear();
        drop(open);
    }

    /// Sends a request and waits for its response.
    pub(super) async fn call(
        &self,
        header: Header,
        Message { body, fds }: Message,
        deadline: Duration,
    ) -> Result<Message, LinkError> {
        let op = Op::from_number(header.op).unwrap_or(Op::Event);
        if fds.len() > MAX_DESCRIPTORS {
            let (count, limit) = (fds.len(), MAX_DESCRIPTORS);
            return Err(LinkError::TooManyDescriptors { request: op.name(), count, limit });
        }
        if body.len() > MAX_BODY {
            return Err(self.system(op, Errno::MSGSIZE));
        }
        let exchange = async {
            let (sender, receiver) = oneshot::channel();
            self.lock().as_mut().ok_or_else(|| self.gone(op))?.waiting.insert(header.id, sender);
            let _waiting = Waiting { connection: self, id: header.id };
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            self.send(header, &body, &borrowed).await.map_err(|error| self.unsendable(op, &error))?;
            // They are closed while the monitor works, and not between its response and ours.
            drop(borrowed);
            drop((fds, body));
            receiver.await.map_err(|_| self.gone(op))
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(packet) => self.response(op, packet?),
            Err(_) => Err(self.deadline(op, deadline)),
        }
    }

    /// Waits for buffer space only when there is none: watching for it all the time would wake the server
    /// whenever the monitor reads a message.
    async fn send(&self, header: Header, body: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        match packet::send(self.socket.get_ref(), header, body, fds) {
            Err(Errno::AGAIN) => {}
            sent => return Ok(sent?),
        }
        #[allow(deprecated)]
        let writable = AsyncFd::with_interest(self.socket.get_ref().try_clone()?, Interest::WRITABLE)?;
        let send = |socket: &OwnedFd| packet::send(socket, header, body, fds).map_err(std::io::Error::from);
        writable.async_io(Interest::WRITABLE, send).await
    }

    /// Sends a request whose response is dropped: at once, or in the background when the monitor does not
    /// read fast enough.
    pub(super) fn send_unanswered(self: &Arc<Self>, header: Header, body: Vec<u8>) {
        if packet::send(self.socket.get_ref(), header, &body, &[]) != Err(Errno::AGAIN) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let connection = Arc::clone(self);
        runtime.spawn(async move {
            let _ = tokio::time::timeout(UNANSWERED, connection.send(header, &body, &[])).await;
        });
    }

    pub(super) fn response(
        &self,
        op: Op,
        Packet { header, body, fds }: Packet,
    ) -> Result<Message, LinkError> {
        if !header.failed {
            if fds.len() < usize::from(header.descriptors) {
                return Err(self.system(op, Errno::MFILE));
            }
            return Ok(Message { body, fds });
        }
        let unknown = |_| self.malformed(op, "it failed for a reason that this server does not know");
        Err(match Failure::decode(&body).map_err(unknown)? {
            Failure::Stage(error) => LinkError::Stage(error),
            failure => LinkError::Refused { request: op.name(), failure },
        })
    }
}

/// Makes errors that name the monitor.
impl Connection {
    pub(super) fn gone(&self, op: Op) -> LinkError {
        LinkError::Gone { monitor: self.monitor.clone(), request: op.name() }
    }

    pub(super) fn deadline(&self, op: Op, after: Duration) -> LinkError {
        LinkError::Deadline { monitor: self.monitor.clone(), request: op.name(), after }
    }

    pub(super) fn malformed(&self, op: Op, reason: impl ToString) -> LinkError {
        LinkError::Protocol { monitor: self.monitor.clone(), request: op.name(), reason: reason.to_string() }
    }

    pub(super) fn unsent(&self, op: Op, error: EncodeError) -> LinkError {
        LinkError::Unsent { monitor: self.monitor.clone(), request: op.name(), error }
    }

    pub(super) fn system(&self, op: Op, errno: Errno) -> LinkError {
        LinkError::System { monitor: self.monitor.clone(), request: op.name(), errno }
    }

    fn unsendable(&self, op: Op, error: &std::io::Error) -> LinkError {
        match Errno::from_io_error(error).unwrap_or(Errno::IO) {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => self.gone(op),
            errno => self.system(op, errno),
        }
    }
}
