//! Detaches a pod: cuts it off at once, and deletes its interface together with others.
//!
//! Deleting an interface waits until no packet in the kernel can still refer to it, some 20 ms, for one
//! interface or fifty. So [`Builtin::detach`] takes the visible steps (the pod can no longer be reached, its
//! host ports are free), and [`Builtin::reap`] deletes the interfaces of all detached pods. Until then a
//! pod's address stays in use and its record stays, marked as detached: a server that is killed in between
//! finds the interface and holds no port.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crisp_executor::ids::PodId;

use super::record::BuiltinRecord;
use super::{Builtin, route_socket};
use crate::network::netlink::{Socket, delete_group, delete_link, retire_link};
use crate::network::{NetlinkError, NetworkError};

/// Interfaces of pods that are detached within this time are deleted together. If a pod's namespace is gone
/// by then, the kernel has deleted the interface with it.
const GATHER: Duration = Duration::from_millis(100);

impl Builtin {
    /// Takes the pod off the network; succeeds if it is not on it. Its interface is deleted by
    /// [`Self::reap`].
    pub(in crate::network) fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let Some(record) = self.state().pods.get(pod).cloned() else { return Ok(()) };
        self.retire(&record).inspect_err(|_| {
            // It goes on working, also for the next server.
            if let Err(error) = self.records.write(&record) {
                tracing::warn!(pod = pod.short(), %error, "cannot note that a pod is still on the network");
            }
        })?;
        self.retired(record)
    }

    /// Takes a pod off the network that was not attached to its end.
    pub(super) fn undo_attach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let Some(record) = self.state().pods.get(pod).cloned() else { return Ok(()) };
        self.retire(&record)?;
        self.retired(record)
    }

    /// Ends the use of a pod's interface.
    fn retire(&self, record: &BuiltinRecord) -> Result<(), NetworkError> {
        let mut socket = route_socket()?;
        // First: if this server is killed, the next one must not take a retired interface for one that works.
        if let Err(error) = self.records.write(&BuiltinRecord { detached: true, ..record.clone() }) {
            // Matters only to a server that starts before the interface is deleted: it detaches the pod
            // again.
            tracing::warn!(pod = record.pod.short(), %error, "cannot note that a pod is off the network");
        }
        retire_link(&mut socket, &record.veth, self.group()).map_err(failed(record))?;
        Ok(())
    }

    fn retired(&self, record: BuiltinRecord) -> Result<(), NetworkError> {
        if !record.ports.is_empty() {
            self.withdraw(&record)?;
        }
        let mut state = self.state();
        state.pods.remove(&record.pod);
        state.detached.insert(record.pod.clone(), BuiltinRecord { detached: true, ..record });
        Ok(())
    }

    /// Deletes the interfaces of all detached pods, and forgets the pods; `false` when there was none.
    pub(in crate::network) fn reap(&self) -> Result<bool, NetworkError> {
        let _reaping = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        let detached: Vec<BuiltinRecord> = self.state().detached.values().cloned().collect();
        let Some(first) = detached.first() else { return Ok(false) };
        let mut socket = route_socket()?;
        let (mut deleted, mut failure) = (detached.iter().collect::<Vec<_>>(), None);
        if delete_group(&mut socket, self.group()).is_err() {
            // One of them cannot be deleted with the others: the others go.
            deleted.retain(|record| match delete_link(&mut socket, &record.veth) {
                Ok(_) => true,
                Err(error) => {
                    failure.get_or_insert(failed(record)(error));
                    false
                }
            });
        }
        tracing::debug!(
            pods = deleted.len(),
            bridge = first.bridge,
            "deleted the interfaces of detached pods"
        );
        for record in deleted {
            self.records.remove(&record.pod)?;
            self.state().forget(&record.pod);
        }
        failure.map_or(Ok(true), Err)
    }

    /// Removes the interfaces that an earlier server left: those of detached pods, and those of running pods that had
    /// not joined this network completely when the server was killed.
    pub(super) fn reap_leftovers(&self) {
        let left: Vec<BuiltinRecord> = self.state().detached.values().cloned().collect();
        if left.is_empty() {
            return;
        }
        let retire = |socket: &mut Socket| {
            // An interface that is not made completely is in no group.
            left.iter().try_for_each(|record| {
                retire_link(socket, &record.veth, self.group()).map(|_| ()).map_err(failed(record))
            })
        };
        let reaped = route_socket().and_then(|mut socket| retire(&mut socket)).and_then(|()| self.reap());
        if let Err(error) = reaped {
            tracing::warn!(network = self.name, %error, "interfaces of detached pods are not deleted yet");
        }
    }

    /// [`Self::reap`] until no detached pod is left; returns at once when another thread does that already.
    #[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
    pub(in crate::network) fn reap_all(&self) {
        while !self.state().detached.is_empty() && !self.reaper_runs.swap(true, Ordering::AcqRel) {
            std::thread::sleep(GATHER);
            let reaped = self.reap();
            self.reaper_runs.store(false, Ordering::Release);
            if let Err(error) = reaped {
                // Tried again with the next detached pod, and at close.
                tracing::warn!(%error, "interfaces of detached pods are not deleted yet");
                return;
            }
        }
    }

    /// The interface group of this server's bridge. Its interfaces are deleted together, so no other program
    /// may use the group: 31 bits of the name's hash make that unlikely.
    fn group(&self) -> u32 {
        self.bridge().group()
    }
}

fn failed(record: &BuiltinRecord) -> impl FnOnce(NetlinkError) -> NetworkError {
    let step = format!("take pod {} off bridge {}", record.pod.short(), record.bridge);
    move |source| NetworkError::Netlink { step, source }
}
