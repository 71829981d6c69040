//! Taking a pod's network away: cut off at once, deleted together with others.
//!
//! Deleting an interface waits until no packet in the kernel can still refer to it, some 20 ms, whether it
//! is one interface or fifty. So [`Builtin::leave`] does what anyone can notice (nothing reaches the pod any
//! more, its host ports are free), and [`Builtin::reap`] deletes all that have left. Until then a pod's
//! address stays taken and its record stays written, so that a server killed in between forgets nothing.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crisp_executor::id::PodId;

use super::attach::{Builtin, route_socket};
use super::record::BuiltinRecord;
use crate::network::netlink::{delete_group, delete_link, retire_link};
use crate::network::{NetlinkError, NetworkError};

/// Pods that leave within this time are deleted together. A pod whose namespace is gone by then was deleted
/// with it, by the kernel.
const GATHER: Duration = Duration::from_millis(100);

impl Builtin {
    /// Takes the pod off the network; fine when it is not on it. Its interface is deleted by [`Self::reap`].
    pub(in crate::network) fn leave(&self, pod: &PodId) -> Result<(), NetworkError> {
        let Some(record) = self.state().pods.get(pod).cloned() else { return Ok(()) };
        let mut socket = route_socket()?;
        retire_link(&mut socket, &record.veth, self.group()).map_err(failed(&record))?;
        if !record.ports.is_empty() {
            self.withdraw(&record)?;
        }
        let mut state = self.state();
        state.pods.remove(pod);
        state.leaving.insert(pod.clone(), record);
        Ok(())
    }

    /// Deletes the interfaces of all pods that have left, and forgets the pods; `false` when there was none.
    pub(in crate::network) fn reap(&self) -> Result<bool, NetworkError> {
        let _reaping = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        let leaving: Vec<BuiltinRecord> = self.state().leaving.values().cloned().collect();
        let Some(first) = leaving.first() else { return Ok(false) };
        let mut socket = route_socket()?;
        if delete_group(&mut socket, self.group()).is_err() {
            // One of them can't be deleted with the others; find out which.
            for record in &leaving {
                delete_link(&mut socket, &record.veth).map_err(failed(record))?;
            }
        }
        tracing::debug!(
            pods = leaving.len(),
            bridge = first.bridge,
            "deleted the interfaces of pods that left"
        );
        for record in &leaving {
            self.records.remove(&record.pod)?;
            self.state().forget(&record.pod);
        }
        Ok(true)
    }

    /// [`Self::reap`] until nobody is left; returns at once when someone does that already.
    pub(in crate::network) fn reap_all(&self) {
        while !self.state().leaving.is_empty() && !self.reaper_runs.swap(true, Ordering::AcqRel) {
            std::thread::sleep(GATHER);
            let reaped = self.reap();
            self.reaper_runs.store(false, Ordering::Release);
            if let Err(error) = reaped {
                // Tried again with the next pod that leaves, and at close.
                tracing::warn!(%error, "interfaces of pods that left are not deleted yet");
                return;
            }
        }
    }

    /// The interface group of this server's bridge. Everything in it is deleted together, so it must not be
    /// anybody else's: 31 bits of the name's hash see to that.
    fn group(&self) -> u32 {
        self.bridge().group()
    }
}

fn failed(record: &BuiltinRecord) -> impl FnOnce(NetlinkError) -> NetworkError {
    let step = format!("take pod {} off bridge {}", record.pod.short(), record.bridge);
    move |source| NetworkError::Netlink { step, source }
}
