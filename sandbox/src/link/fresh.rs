//! Opens the pod of a monitor that this server has just started, on a thread of blocking work: the response of
//! the monitor wakes that thread, and no other thread has to pass it on.

use std::path::Path;
use std::sync::Arc;

use crisp_executor::ids::PodId;
use crisp_monitor::wire::request::OpenPod;
use crisp_monitor::wire::response::{Greeting, PodOpened};
use crisp_monitor::wire::{
    Header, Kind, MAX_BODY, Message, PROTOCOL, Packet, ReceiveError, Request, Response, packet,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;

use super::connect::connect_first;
use super::reader::{Connection, Reader};
use super::{LinkError, MonitorLink};

/// How long a wait does not look whether it is to go on.
const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

impl MonitorLink {
    /// Makes the monitor of `pod`, which runs as process `pid`, open it with `request`, and runs `meanwhile`
    /// while the monitor works. It is of this server's own build, so no greeting is needed. Returns the link to
    /// it, whether or not that succeeds, and the response: None when `waits` has returned false before. Blocks.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`LinkError::Connect`], [`LinkError::Unsent`]: there is no link. With a link, as for other requests.
    pub(crate) fn open_fresh(
        socket: &Path,
        (pod, pid): (&PodId, i32),
        request: OpenPod,
        meanwhile: impl FnOnce(),
        waits: impl Fn() -> bool,
    ) -> Result<(Self, Result<Option<PodOpened>, LinkError>), LinkError> {
        let unsent = |error| {
            let request = OpenPod::OP.name();
            LinkError::Unsent { monitor: socket.to_owned(), request, error }
        };
        let message = request.encode(PROTOCOL).map_err(unsent)?;
        let descriptor = connect_first(socket)?;
        // The link's first id.
        let header = Header { version: PROTOCOL, ..Header::request(OpenPod::OP, FIRST) };
        let sent = send(&descriptor, header, message);
        meanwhile();
        let received = sent.and_then(|()| receive(&descriptor, waits));
        let connection = Arc::new(Connection::new(socket.to_owned(), descriptor)?);
        connection.next_id();
        let opened = response(&connection, received);
        let build = env!("CARGO_PKG_VERSION").to_owned();
        let greeting = Greeting { protocol: PROTOCOL, build, pod: pod.clone(), pid, opened: false };
        let reader = Arc::<Reader>::default();
        Ok((Self { connection, greeting: Arc::new(greeting), deadline: None, reader }, opened))
    }
}

/// The id of the request, which the link then does not give to another one.
const FIRST: u64 = 1;

/// An empty socket always has room for one message.
fn send(socket: &OwnedFd, header: Header, Message { body, fds }: Message) -> Result<(), ReceiveError> {
    if body.len() > MAX_BODY {
        return Err(ReceiveError::System(Errno::MSGSIZE));
    }
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    packet::send(socket, header, &body, &fds).map_err(|errno| match errno {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => ReceiveError::Closed,
        errno => ReceiveError::System(errno),
    })
}

/// The response; events before it are dropped, as those before a link are.
fn receive(socket: &OwnedFd, waits: impl Fn() -> bool) -> Result<Option<Packet>, ReceiveError> {
    loop {
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&SLICE)) {
            Ok(0) | Err(Errno::INTR) if waits() => continue,
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Err(errno) => return Err(ReceiveError::System(errno)),
            Ok(_) => {}
        }
        let packet = packet::receive(socket)?;
        let is_response = |packet: &Packet| packet.header.kind == Kind::Response && packet.header.id == FIRST;
        if let Some(packet) = packet.filter(is_response) {
            return Ok(Some(packet));
        }
    }
}

fn response(
    connection: &Connection,
    received: Result<Option<Packet>, ReceiveError>,
) -> Result<Option<PodOpened>, LinkError> {
    let op = OpenPod::OP;
    let packet = received.map_err(|error| match error {
        ReceiveError::Closed => connection.gone(op),
        ReceiveError::System(errno) => connection.system(op, errno),
        error => connection.malformed(op, error),
    })?;
    let Some(packet) = packet else { return Ok(None) };
    let message = connection.response(op, packet)?;
    PodOpened::decode(message).map(Some).map_err(|error| connection.malformed(op, error))
}
