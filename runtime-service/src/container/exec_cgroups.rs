//! The exec cgroups of one container, by number: which ones this server has made, and their open files.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crisp_executor::cgroup::OpenExecCgroup;

use crate::stats::cgroup_reader::Permit;

/// Cgroups of higher numbers are for many commands at once, which are rare.
const MAX_OPEN: u32 = 2;

/// Whether the files of the cgroup with this number stay open from one command to the next.
pub fn is_kept_open(number: u32) -> bool {
    number < MAX_OPEN
}

/// The exec cgroups that this server has made.
#[derive(Debug, Default)]
pub struct ExecCgroups(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    by_number: BTreeMap<u32, Slot>,
    /// The container has ended: no file stays open.
    closed: bool,
    /// How often the container has been made ready for another start.
    generation: u64,
}

#[derive(Debug, Default)]
struct Slot {
    in_use: bool,
    /// None while a command uses it, which has them then.
    open: Option<OpenFiles>,
}

/// Kept from one command to the next while the descriptor budget allows.
#[derive(Debug)]
pub struct OpenFiles {
    pub cgroup: OpenExecCgroup,
    pub(crate) permit: Permit,
}

/// The number of an exec cgroup that one command uses.
#[derive(Debug, Clone, Copy)]
pub struct Number {
    pub number: u32,
    /// That of the slots; the number means another cgroup after another start of the container.
    generation: u64,
}

/// A number as it was found.
#[derive(Debug)]
pub struct Taken {
    pub number: Number,
    /// Its cgroup exists already.
    pub is_made: bool,
    pub files: Option<OpenFiles>,
}

/// The state of a number after its command has ended.
#[derive(Debug, Clone, Copy)]
pub enum Afterwards {
    /// It has no cgroup.
    Forgotten,
    Free,
    /// It is never used again.
    InUse,
}

impl ExecCgroups {
    /// Takes the lowest number that no other command uses.
    pub fn take_lowest(&self) -> Taken {
        let mut slots = self.lock();
        let generation = slots.generation;
        let slots = &mut slots.by_number;
        let is_free = |number: &u32| !slots.get(number).is_some_and(|slot| slot.in_use);
        let number = (0..u32::MAX).find(is_free).unwrap_or(u32::MAX);
        let is_made = slots.contains_key(&number);
        let slot = slots.entry(number).or_default();
        slot.in_use = true;
        Taken { number: Number { number, generation }, is_made, files: slot.open.take() }
    }

    /// Returns a number that was taken. The files stay open if its cgroup is used again.
    pub fn give_back(&self, number: Number, afterwards: Afterwards, files: Option<OpenFiles>) {
        let mut slots = self.lock();
        if slots.generation != number.generation {
            return;
        }
        let Number { number, .. } = number;
        let open = files.filter(|_| !slots.closed && is_kept_open(number));
        match afterwards {
            Afterwards::Forgotten => slots.by_number.remove(&number),
            Afterwards::Free => slots.by_number.insert(number, Slot { in_use: false, open }),
            Afterwards::InUse => slots.by_number.insert(number, Slot { in_use: true, open: None }),
        };
    }

    /// Whether the container has not been made ready for another start since the number was taken.
    pub fn is_current(&self, number: Number) -> bool {
        self.lock().generation == number.generation
    }

    /// Closes the files: a removed cgroup stays in the kernel until then.
    pub fn close(&self) {
        let mut slots = self.lock();
        slots.closed = true;
        slots.by_number.values_mut().for_each(|slot| slot.open = None);
    }

    /// For another start: the container's cgroup is made again, with none for commands. Numbers that are still in
    /// use count no more.
    pub fn clear(&self) {
        let mut slots = self.lock();
        *slots = Slots { generation: slots.generation + 1, ..Slots::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_number_is_used_again_unless_something_is_left_there() {
        let cgroups = ExecCgroups::default();
        let [zero, one] = [cgroups.take_lowest(), cgroups.take_lowest()];
        assert_eq!([zero.number.number, one.number.number], [0, 1]);
        assert!(!zero.is_made && !one.is_made);
        cgroups.give_back(zero.number, Afterwards::Free, None);
        let zero = cgroups.take_lowest();
        assert_eq!((zero.number.number, zero.is_made), (0, true));
        cgroups.give_back(zero.number, Afterwards::InUse, None);
        cgroups.give_back(one.number, Afterwards::Forgotten, None);
        let one = cgroups.take_lowest();
        assert_eq!((one.number.number, one.is_made), (1, false));
    }

    #[test]
    fn a_number_of_an_earlier_start_changes_nothing() {
        let cgroups = ExecCgroups::default();
        let old = cgroups.take_lowest().number;
        assert!(cgroups.is_current(old));
        cgroups.clear();
        assert!(!cgroups.is_current(old));
        let new = cgroups.take_lowest();
        assert_eq!((new.number.number, new.is_made), (0, false));
        for afterwards in [Afterwards::Forgotten, Afterwards::Free, Afterwards::InUse] {
            cgroups.give_back(old, afterwards, None);
            let next = cgroups.take_lowest();
            assert_eq!(next.number.number, 1, "{afterwards:?}");
            cgroups.give_back(next.number, Afterwards::Free, None);
        }
        cgroups.give_back(new.number, Afterwards::Free, None);
        assert!(cgroups.take_lowest().is_made);
    }
}
