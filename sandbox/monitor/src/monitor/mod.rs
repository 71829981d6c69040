//! The loop, and the state that everything in it shares.

pub(crate) mod ending;
pub(crate) mod outputs;
mod reply;
mod request;
mod timers;

use std::collections::BTreeMap;
use std::time::Instant;

use crisp_executor::ids::PodId;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::connection::{Connection, ConnectionClosed};
use crate::container::Container;
use crate::exec::{Exec, Leftover};
use crate::held::HeldRequest;
use crate::log::Stream;
use crate::pod::Pod;
use crate::poller::{Key, Poller, Token};
use crate::sys;

use ending::Ending;
pub(crate) use reply::{Call, Reply};
use timers::Tidy;

pub(crate) struct Monitor {
    pub(crate) id: PodId,
    pub(crate) pod: Pod,
    pub(crate) poller: Poller,
    pub(crate) signals: OwnedFd,
    pub(crate) containers: BTreeMap<Key, Container>,
    pub(crate) execs: BTreeMap<Key, Exec>,
    pub(crate) leftovers: Vec<Leftover>,
    pub(crate) held: Vec<HeldRequest>,
    pub(crate) connections: BTreeMap<Key, Connection>,
    pub(crate) ending: Ending,
    listener: OwnedFd,
    /// Closed to refuse a client when there is no other descriptor left.
    spare: Option<OwnedFd>,
    last_key: Key,
    scratch: outputs::Scratch,
    tidy: Tidy,
    began: Instant,
}

impl Monitor {
    pub(crate) fn new(id: PodId, pod: Pod, listener: OwnedFd, signals: OwnedFd) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let poller = Poller::new()?;
        poller.add(&listener, Token::Listener)?;
        poller.add(&signals, Token::Signals)?;
        Ok(Self {
            id,
            pod,
            poller,
            signals,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            leftovers: Vec::new(),
            held: Vec::new(),
            connections: BTreeMap::new(),
            ending: Ending::No,
            listener,
            spare: spare(),
            last_key: 0,
            scratch: outputs::Scratch::default(),
            tidy: Tidy::default(),
            began: Instant::now(),
        })
    }

    /// Runs until it is shut down, or ends with its containers, or was never a pod.
    pub(crate) fn run(mut self) -> Result<(), Errno> {
        loop {
            let tokens = self.poller.wait(self.timeout())?;
            if !tokens.is_empty() {
                self.tidy.later();
            }
            for token in tokens {
                self.ready(token);
            }
            self.timers();
            self.release_held(Instant::now());
            if self.over() {
                return Ok(());
            }
        }
    }

    fn ready(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => {
                if sys::read_signals(&self.signals) {
                    self.ending.with_containers();
                }
                // A request that waits may be the cause of a child's end.
                let connections: Vec<Key> = self.connections.keys().copied().collect();
                connections.into_iter().for_each(|key| self.serve(key));
                self.reap();
            }
            Token::Connection(key) => self.serve(key),
            Token::Launch(key) => self.launch_progress(key),
            Token::Stdout(key) => self.output_ready(key, Stream::Stdout),
            Token::Stderr(key) => self.output_ready(key, Stream::Stderr),
        }
    }

    pub(crate) fn new_key(&mut self) -> Key {
        self.last_key += 1;
        self.last_key
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => self.welcome(socket),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                // If it stayed in the queue, it would wake the loop forever.
                Err(Errno::MFILE | Errno::NFILE) if self.spare.take().is_some() => {
                    let turned_away = rustix::net::accept_with(&self.listener, flags).map(drop);
                    self.spare = spare();
                    // The kernel also reports a lack of descriptors when no client waits.
                    if turned_away.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn welcome(&mut self, socket: OwnedFd) {
        let key = self.new_key();
        if self.poller.add(&socket, Token::Connection(key)).is_ok() {
            self.connections.insert(key, Connection::new(socket));
            // Its first request is usually there already: this saves a turn of the loop.
            self.serve(key);
        }
    }

    fn serve(&mut self, key: Key) {
        loop {
            let Some(connection) = self.connections.get_mut(&key) else { return };
            let received = connection.flush().and_then(|()| connection.receive());
            match received {
                Ok(Some(packet)) => self.request(key, packet),
                Ok(None) => return self.watch_for_room(key),
                Err(ConnectionClosed) => return self.disconnect(key),
            }
        }
    }

    fn watch_for_room(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(&key) {
            let writing = connection.backed_up();
            if writing != connection.waits_for_room {
                connection.waits_for_room = writing;
                self.poller.also_writing(connection.socket(), Token::Connection(key), writing);
            }
        }
    }

    /// Closes a connection and ends the execs that were requested on it.
    pub(crate) fn disconnect(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(&key) {
            self.poller.remove(connection.socket());
        }
        self.held.retain(|held| held.requester.connection != key);
        let now = Instant::now();
        for exec in self.execs.values_mut().filter(|exec| exec.connection == key) {
            exec.connection_ended(now);
        }
        for leftover in self.leftovers.iter_mut().filter(|leftover| leftover.connection == key) {
            leftover.connection_ended(now);
        }
    }
}

fn spare() -> Option<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()
}
