//! A limit for all pods of a network together, of which one pod can use only a part.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug)]
pub(super) struct Shares {
    all: usize,
    each: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// Returned when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Shares>,
    pod: IpAddr,
}

impl Shares {
    pub(super) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, taken: Mutex::default() })
    }

    /// None when the pod has used its part, or everything is in use.
    pub(super) fn take(self: &Arc<Self>, pod: IpAddr) -> Option<Share> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= self.all {
            return None;
        }
        let own = taken.entry(pod).or_default();
        if *own >= self.each {
            return None;
        }
        *own += 1;
        Some(Share { of: Arc::clone(self), pod })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.pod) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.pod);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pod_does_not_get_all_and_all_is_an_end() {
        let shares = Shares::new(3, 2);
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let held = [shares.take(a), shares.take(a)];
        assert!(held.iter().all(Option::is_some) && shares.take(a).is_none());
        let other = shares.take(b);
        assert!(other.is_some() && shares.take(c).is_none());
        drop(held);
        assert!(shares.take(c).is_some() && shares.take(a).is_some());
        drop(other);
        assert!(shares.taken.lock().unwrap().is_empty());
    }
}
