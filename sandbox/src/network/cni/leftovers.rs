//! Pods that their plugins fail to detach.
//!
//! ```text
//!   DEL fails --> failed: the client repeats --x3--> given up: tried again after 10 s, 20 s, ... 5 min
//!                                                    or soon, when a pod needs what it still has
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crisp_executor::ids::PodId;

/// Pauses before a given-up pod is tried again: the first, and the longest.
const RETRY: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(300)];

#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<BTreeMap<PodId, Left>>);

#[derive(Debug, Default)]
struct Left {
    failures: u32,
    why: String,
    /// None while its client repeats the request.
    retry: Option<Retry>,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
}

impl Leftovers {
    /// Counts a failure; returns their number.
    pub(super) fn failed(&self, pod: &PodId, why: String) -> u32 {
        let mut all = self.lock();
        let left = all.entry(pod.clone()).or_default();
        left.failures += 1;
        left.why = why;
        left.failures
    }

    /// From now on it is tried again by the server; returns whether that is new.
    pub(super) fn give_up(&self, pod: &PodId, why: String, now: Instant) -> bool {
        let mut all = self.lock();
        let left = all.entry(pod.clone()).or_default();
        left.why = why;
        let pause = left.retry.as_ref().map_or(RETRY[0], |retry| (retry.pause * 2).min(RETRY[1]));
        left.retry.replace(Retry { at: now + pause, pause }).is_none()
    }

    /// Whether the server alone tries it again.
    pub(super) fn is_given_up(&self, pod: &PodId) -> bool {
        self.lock().get(pod).is_some_and(|left| left.retry.is_some())
    }

    pub(super) fn forget(&self, pod: &PodId) {
        self.lock().remove(pod);
    }

    /// The pods that were given up, with the reason.
    pub(super) fn all(&self) -> Vec<(PodId, String)> {
        let all = self.lock();
        let given_up = all.iter().filter(|(_, left)| left.retry.is_some());
        given_up.map(|(pod, left)| (pod.clone(), left.why.clone())).collect()
    }

    /// Those of them that must be tried again.
    pub(super) fn due(&self, now: Instant) -> Vec<PodId> {
        let all = self.lock();
        let is_due = |left: &Left| left.retry.as_ref().is_some_and(|retry| retry.at <= now);
        all.iter().filter(|(_, left)| is_due(left)).map(|(pod, _)| pod.clone()).collect()
    }

    /// Tries the pod again as soon as possible, and from then on after the first pause; returns the reason for
    /// which it was given up, or None if it was not.
    pub(super) fn hurry(&self, pod: &PodId, now: Instant) -> Option<String> {
        let mut all = self.lock();
        let left = all.get_mut(pod)?;
        let retry = left.retry.as_mut()?;
        *retry = Retry { at: now.min(retry.at), pause: RETRY[0] / 2 };
        Some(left.why.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodId, Left>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn the_pause_between_two_tries_grows_until_a_pod_needs_what_is_left() {
        let (left, pod, mut now) = (Leftovers::default(), PodId::random(), Instant::now());
        assert_eq!(left.failed(&pod, "down".to_owned()), 1);
        assert!(left.due(now).is_empty() && left.hurry(&pod, now).is_none(), "its client repeats it");
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(left.is_given_up(&pod), pause != 10);
            assert_eq!(left.give_up(&pod, "down".to_owned(), now), pause == 10);
            now += Duration::from_secs(pause);
            assert!(left.due(now - Duration::from_millis(1)).is_empty());
            assert_eq!(left.due(now), from_ref(&pod));
        }
        left.give_up(&pod, "still down".to_owned(), now);
        assert_eq!(left.hurry(&pod, now).unwrap(), "still down");
        assert_eq!(left.due(now), from_ref(&pod));
        left.give_up(&pod, "down".to_owned(), now);
        assert_eq!(left.due(now + RETRY[0]), from_ref(&pod));
        left.forget(&pod);
        assert!(left.all().is_empty() && left.due(now + RETRY[1]).is_empty());
    }
}
