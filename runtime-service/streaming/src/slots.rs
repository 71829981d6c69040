//! Limits on the number of open sessions and streams, per owner and in total.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The limits of one kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The limit of one owner, which is a pod.
    pub each: usize,
    pub all: usize,
}

/// The limit that is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Full {
    Owner { owner: Arc<str>, limit: usize },
    All { limit: usize },
}

/// Counts objects of one kind.
pub(crate) struct Slots {
    limit: Limit,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    all: usize,
    of: HashMap<Arc<str>, usize>,
}

/// One counted object, until it is dropped.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    owner: Arc<str>,
}

/// The slots of one owner.
#[derive(Clone)]
pub(crate) struct OwnedSlots {
    pub(crate) slots: Arc<Slots>,
    pub(crate) owner: Arc<str>,
}

impl Slots {
    pub(crate) fn new(limit: Limit) -> Arc<Self> {
        Arc::new(Self { limit, used: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(self: &Arc<Self>, owner: &Arc<str>) -> Result<Slot, Full> {
        let mut used = self.lock();
        if used.all >= self.limit.all {
            return Err(Full::All { limit: self.limit.all });
        }
        let of_owner = used.of.get(owner).copied().unwrap_or(0);
        if of_owner >= self.limit.each {
            return Err(Full::Owner { owner: owner.clone(), limit: self.limit.each });
        }
        used.all += 1;
        used.of.insert(owner.clone(), of_owner + 1);
        Ok(Slot { slots: self.clone(), owner: owner.clone() })
    }
}

impl OwnedSlots {
    pub(crate) fn take(&self) -> Result<Slot, Full> {
        self.slots.take(&self.owner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut used = self.slots.lock();
        used.all -= 1;
        if let Some(count) = used.of.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                used.of.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_cannot_take_the_slots_of_all() {
        let slots = Slots::new(Limit { each: 2, all: 3 });
        let [one, two]: [Arc<str>; 2] = ["one".into(), "two".into()];
        let held = [slots.take(&one).unwrap(), slots.take(&one).unwrap()];
        assert_eq!(slots.take(&one).err(), Some(Full::Owner { owner: one.clone(), limit: 2 }));
        let other = slots.take(&two).unwrap();
        assert_eq!(slots.take(&two).err(), Some(Full::All { limit: 3 }));
        drop((held, other));
        assert!(slots.lock().of.is_empty());
        assert!(slots.take(&one).is_ok());
    }
}
