//! What the clones of a link share, and the task that sorts what arrives.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crisp_executor::run::StageError;
use crisp_monitor::wire::{Failure, Header, Kind, MAX_BODY, MAX_DESCRIPTORS, Op, Packet, ReceiveError};
use crisp_monitor::wire::{packet, response};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

use super::execs::{ExecEnd, Execs};
use super::{Event, LinkError, PodNetwork, Started};

/// Events that a slow receiver may be behind before it must ask for a report.
const EVENTS: usize = 256;

pub(super) struct Shared {
    pub(super) monitor: PathBuf,
    pub(super) socket: AsyncFd<OwnedFd>,
    pub(super) execs: Execs,
    next: AtomicU64,
    state: Mutex<State>,
}

/// Who waits for which response; None once the connection is over.
struct State {
    waiting: Option<HashMap<u64, oneshot::Sender<Packet>>>,
    events: Option<broadcast::Sender<Event>>,
}

/// The response to one request, not a failure.
pub(super) struct Reply(Packet);

/// Reads until the last link is dropped.
pub(super) struct Reader(JoinHandle<()>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reader {
    pub(super) fn spawn(shared: &Arc<Shared>) -> Self {
        let shared = Arc::clone(shared);
        Self(tokio::spawn(async move {
            let over = shared.read().await;
            if !matches!(over, ReceiveError::Closed) {
                tracing::warn!(monitor = %shared.monitor.display(), "connection to monitor ended: {over}");
            }
            shared.close();
        }))
    }
}

/// Takes a waiter out when its request is given up.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = &mut self.shared.lock().waiting {
            waiting.remove(&self.id);
        }
    }
}

impl Shared {
    pub(super) fn new(monitor: PathBuf, socket: OwnedFd) -> Result<Self, LinkError> {
        let fail = |error: std::io::Error| LinkError::Connect {
            monitor: monitor.clone(),
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        };
        // Deprecated for descriptors that change under it; an `OwnedFd` names one socket for life.
        #[allow(deprecated)]
        let socket = AsyncFd::new(socket).map_err(fail)?;
        let (events, _) = broadcast::channel(EVENTS);
        let state = State { waiting: Some(HashMap::new()), events: Some(events) };
        let next = AtomicU64::new(1);
        Ok(Self { monitor, socket, execs: Execs::default(), next, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().waiting.is_none()
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        match &self.lock().events {
            Some(events) => events.subscribe(),
            None => {
                let (sender, receiver) = broadcast::channel(1);
                let _ = sender.send(Event::Disconnected);
                receiver
            }
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
                let waiter = self.lock().waiting.as_mut().and_then(|w| w.remove(&packet.header.id));
                // Without a waiter the packet is dropped here, and its descriptors close.
                if let Some(waiter) = waiter {
                    let _ = waiter.send(packet);
                }
            }
            Kind::Event => self.announce(&packet.body),
            Kind::Request => {}
        }
    }

    fn announce(&self, body: &[u8]) {
        match postcard::from_bytes(body) {
            Ok(response::Event::ExecExited { exec, status, finished_at_ns, .. }) => {
                self.execs.ended(exec, ExecEnd { status, finished_at_ns });
            }
            Ok(event) => {
                if let (Some(event), Some(events)) = (Event::from_wire(event), &self.lock().events) {
                    let _ = events.send(event);
                }
            }
            // A newer monitor than this server: what it tells of is not known here.
            Err(error) => {
                tracing::debug!(monitor = %self.monitor.display(), "event of unknown kind: {error}");
            }
        }
    }

    fn close(&self) {
        let (waiting, events) = {
            let mut state = self.lock();
            (state.waiting.take(), state.events.take())
        };
        drop(waiting);
        self.execs.clear();
        if let Some(events) = events {
            let _ = events.send(Event::Disconnected);
        }
    }

    pub(super) async fn call(
        &self,
        op: Op,
        request: &'static str,
        body: &impl Serialize,
        fds: &[OwnedFd],
        deadline: Duration,
    ) -> Result<Reply, LinkError> {
        let body = postcard::to_allocvec(body).map_err(|error| self.protocol(request, &error.to_string()))?;
        if fds.len() > MAX_DESCRIPTORS {
            let (count, limit) = (fds.len(), MAX_DESCRIPTORS);
            return Err(LinkError::TooManyDescriptors { request, count, limit });
        }
        if body.len() > MAX_BODY {
            return Err(self.system(request, Errno::MSGSIZE));
        }
        match tokio::time::timeout(deadline, self.exchange(op, request, &body, fds)).await {
            Ok(answer) => answer,
            Err(_) => Err(LinkError::Deadline { monitor: self.monitor.clone(), request, after: deadline }),
        }
    }

    async fn exchange(
        &self,
        op: Op,
        request: &'static str,
        body: &[u8],
        fds: &[OwnedFd],
    ) -> Result<Reply, LinkError> {
        let id = self.next_id();
        let (sender, receiver) = oneshot::channel();
        self.lock().waiting.as_mut().ok_or_else(|| self.gone(request))?.insert(id, sender);
        let _waiting = Waiting { shared: self, id };
        self.send(Header::request(op, id), request, body, fds).await?;
        let packet = receiver.await.map_err(|_| self.gone(request))?;
        if !packet.header.failed {
            return Ok(Reply(packet));
        }
        let failure = postcard::from_bytes(&packet.body)
            .map_err(|_| self.protocol(request, "it refused for a reason unknown to this server"))?;
        Err(match failure {
            Failure::Stage(error) => LinkError::Stage(error),
            failure => LinkError::Refused { request, failure },
        })
    }

    async fn send(
        &self,
        header: Header,
        request: &'static str,
        body: &[u8],
        fds: &[OwnedFd],
    ) -> Result<(), LinkError> {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| {
            packet::send(socket, header, body, &borrowed).map_err(std::io::Error::from)
        });
        match sent.await.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
            Ok(()) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(self.gone(request)),
            Err(errno) => Err(self.system(request, errno)),
        }
    }

    pub(super) fn gone(&self, request: &'static str) -> LinkError {
        LinkError::Gone { monitor: self.monitor.clone(), request }
    }

    pub(super) fn system(&self, request: &'static str, errno: Errno) -> LinkError {
        LinkError::System { monitor: self.monitor.clone(), request, errno }
    }

    pub(super) fn protocol(&self, request: &'static str, reason: &str) -> LinkError {
        LinkError::Protocol { monitor: self.monitor.clone(), request, reason: reason.to_owned() }
    }

    pub(super) fn network(&self, fds: Vec<OwnedFd>, request: &'static str) -> Result<PodNetwork, LinkError> {
        let fds: Result<[OwnedFd; 2], _> = fds.try_into();
        let [netlink, netns] =
            fds.map_err(|_| self.protocol(request, "the descriptors of the network did not come"))?;
        Ok(PodNetwork { netlink, netns })
    }

    pub(super) fn started(&self, reply: Reply, request: &'static str) -> Result<Started, LinkError> {
        let (started, mut fds): (response::Started, _) = reply.parse_with_fds(self, request)?;
        let response::Started { pid, started_at_ns, notes } = started;
        let notes: Vec<StageError> = notes;
        Ok(Started { pid, started_at_ns, notes, terminal: fds.pop() })
    }
}

impl Reply {
    pub(super) fn parse<T: DeserializeOwned>(
        self,
        shared: &Shared,
        request: &'static str,
    ) -> Result<T, LinkError> {
        self.parse_with_fds(shared, request).map(|(body, _)| body)
    }

    pub(super) fn parse_with_fds<T: DeserializeOwned>(
        self,
        shared: &Shared,
        request: &'static str,
    ) -> Result<(T, Vec<OwnedFd>), LinkError> {
        let Packet { header, body, fds } = self.0;
        if fds.len() < usize::from(header.descriptors) {
            return Err(shared.system(request, Errno::MFILE));
        }
        let body =
            postcard::from_bytes(&body).map_err(|error| shared.protocol(request, &error.to_string()))?;
        Ok((body, fds))
    }
}
