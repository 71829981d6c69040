//! The meters of pods' own cgroups.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crisp_executor::ids::PodId;

use super::meter::Meter;

/// A meter for each pod that has been read and is ready.
#[derive(Debug, Default)]
pub struct PodMeters(Mutex<HashMap<PodId, Arc<Meter>>>);

impl PodMeters {
    /// The meter of `pod`, new if it has none yet.
    pub(super) fn of(&self, pod: &PodId) -> Arc<Meter> {
        let mut meters = self.lock();
        match meters.get(pod) {
            Some(meter) => meter.clone(),
            None => meters.entry(pod.clone()).or_default().clone(),
        }
    }

    /// Forgets the pod, whose cgroup will be removed.
    pub fn remove(&self, pod: &PodId) {
        self.lock().remove(pod);
    }

    /// Forgets all pods but these.
    pub fn retain(&self, pods: &HashSet<&PodId>) {
        self.lock().retain(|pod, _| pods.contains(pod));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodId, Arc<Meter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
