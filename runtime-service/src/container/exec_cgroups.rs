//! The exec cgroups of one container, by number: which ones this server has made, and their open files.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crisp_executor::cgroup::{CgroupError, ExecCgroup, JoinFds, OpenExecCgroup};

use crate::stats::cgroup_reader::{DescriptorBudget, Permit};

/// Cgroups of higher numbers are for many commands at once, which are rare.
const MAX_OPEN: u32 = 2;

/// The exec cgroups that this server has made.
#[derive(Debug, Default)]
pub struct ExecCgroups(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    by_number: BTreeMap<u32, Slot>,
    /// The container has ended: no file stays open.
    closed: bool,
}

#[derive(Debug, Default)]
struct Slot {
    in_use: bool,
    /// Kept from one command to the next while the descriptor budget allows.
    open: Option<(OpenExecCgroup, Permit)>,
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
    /// Takes the lowest number that no other command uses. The second value: its cgroup exists already.
    pub fn take_lowest(&self) -> (u32, bool) {
        let slots = &mut self.lock().by_number;
        let is_free = |number: &u32| !slots.get(number).is_some_and(|slot| slot.in_use);
        let number = (0..u32::MAX).find(is_free).unwrap_or(u32::MAX);
        let is_made = slots.contains_key(&number);
        slots.entry(number).or_default().in_use = true;
        (number, is_made)
    }

    /// Returns a number that was taken.
    pub fn give_back(&self, number: u32, afterwards: Afterwards) {
        let slots = &mut self.lock().by_number;
        match afterwards {
            Afterwards::Forgotten => drop(slots.remove(&number)),
            Afterwards::Free => slots.entry(number).or_default().in_use = false,
            Afterwards::InUse => drop(slots.insert(number, Slot { in_use: true, open: None })),
        }
    }

    /// The cgroup with this number, which the caller has taken, if it is empty; with descriptors for joining.
    /// `open` opens its files, unless they are open.
    ///
    /// # Errors
    /// The files cannot be opened or read.
    pub fn take_idle<E: From<CgroupError>>(
        &self,
        number: u32,
        budget: &DescriptorBudget,
        open: impl FnOnce() -> Result<Option<OpenExecCgroup>, E>,
    ) -> Result<Option<(ExecCgroup, JoinFds)>, E> {
        let kept = self.lock().by_number.get_mut(&number).and_then(|slot| slot.open.take());
        let (files, permit) = match kept {
            Some((files, permit)) => (files, Some(permit)),
            None => match open()? {
                Some(files) => (files, budget.acquire()),
                None => return Ok(None),
            },
        };
        let Some(idle) = files.take_if_idle()? else { return Ok(None) };
        let mut slots = self.lock();
        if let Some(permit) = permit.filter(|_| !slots.closed && number < MAX_OPEN) {
            slots.by_number.entry(number).or_default().open = Some((files, permit));
        }
        Ok(Some(idle))
    }

    /// Whether processes live in the cgroup with this number, which the caller has taken. None when its files are
    /// not open.
    pub fn is_populated(&self, number: u32) -> Option<Result<bool, CgroupError>> {
        let slots = self.lock();
        let (files, _) = slots.by_number.get(&number)?.open.as_ref()?;
        Some(files.is_populated())
    }

    /// Closes the files: a removed cgroup stays in the kernel until then.
    pub fn close(&self) {
        let mut slots = self.lock();
        slots.closed = true;
        slots.by_number.values_mut().for_each(|slot| slot.open = None);
    }

    /// For another start: the container's cgroup is made again, with none for commands.
    pub fn clear(&self) {
        *self.lock() = Slots::default();
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
