//! The connections to monitors that a task follows: each is followed once, as long as its task lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crisp_executor::ids::PodId;

/// The connection of each pod that is followed. `L` is a connection.
pub(crate) struct Followed<L> {
    by_pod: Mutex<HashMap<PodId, L>>,
    is_same: fn(&L, &L) -> bool,
}

/// Held by the task that follows a connection; also a task that panics gives it back.
pub(crate) struct Following<L> {
    followed: Arc<Followed<L>>,
    pod: PodId,
    link: L,
}

impl<L: Clone> Followed<L> {
    pub(crate) fn new(is_same: fn(&L, &L) -> bool) -> Arc<Self> {
        Arc::new(Self { by_pod: Mutex::default(), is_same })
    }

    /// None if a task follows the connection already.
    pub(crate) fn begin(self: &Arc<Self>, pod: &PodId, link: &L) -> Option<Following<L>> {
        let before = {
            let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
            by_pod.insert(pod.clone(), link.clone())
        };
        if before.is_some_and(|before| (self.is_same)(&before, link)) {
            return None;
        }
        Some(Following { followed: self.clone(), pod: pod.clone(), link: link.clone() })
    }
}

impl<L> Drop for Following<L> {
    fn drop(&mut self) {
        let mut by_pod = self.followed.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        // A newer connection may be followed by now.
        if by_pod.get(&self.pod).is_some_and(|last| (self.followed.is_same)(last, &self.link)) {
            by_pod.remove(&self.pod);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(digit: char) -> PodId {
        PodId::parse(&digit.to_string().repeat(64)).unwrap()
    }

    #[test]
    fn a_connection_is_followed_once_until_its_task_ends() {
        let followed = Followed::new(u32::eq);
        let first = followed.begin(&pod('a'), &1).unwrap();
        assert!(followed.begin(&pod('a'), &1).is_none(), "recovery and the event of its connection");
        assert!(followed.begin(&pod('b'), &1).is_some());
        let second = followed.begin(&pod('a'), &2).unwrap();
        drop(first);
        assert!(
            followed.begin(&pod('a'), &2).is_none(),
            "the end of an earlier connection is not that of this one"
        );
        drop(second);
        assert!(followed.begin(&pod('a'), &2).is_some());
    }

    #[test]
    fn a_connection_whose_task_panicked_is_followed_again() {
        let followed = Followed::new(u32::eq);
        let following = followed.begin(&pod('a'), &1);
        let panics = std::thread::spawn(move || {
            let _following = following;
            panic!("this test's own");
        });
        assert!(panics.join().is_err());
        assert!(followed.begin(&pod('a'), &1).is_some());
    }
}
