//! A number in memory that a process shares with its copies.

use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;

use super::checked;

/// The kernel maps whole pages.
const LENGTH: usize = size_of::<AtomicI32>();

/// At first 0. Copies of the process (fork) see the same number.
#[derive(Debug)]
pub(crate) struct SharedNumber(NonNull<AtomicI32>);

impl SharedNumber {
    pub(crate) fn new() -> Result<Self, Errno> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let page = unsafe { libc::mmap(null_mut(), LENGTH, access, kind, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(checked(-1).err().unwrap_or(Errno::NOMEM));
        }
        NonNull::new(page.cast()).map(Self).ok_or(Errno::NOMEM)
    }

    fn number(&self) -> &AtomicI32 {
        // SAFETY: the mapping lives as long as `self`, is aligned to a page, and zeros are a valid number. Other
        // processes reach it by atomic operations alone.
        unsafe { self.0.as_ref() }
    }

    /// Stores 0, so that the page exists in this process, and returns the address for the kernel to store a number.
    pub(super) fn place(&self) -> u64 {
        self.number().store(0, Ordering::Release);
        self.0.as_ptr() as u64
    }

    pub(crate) fn store(&self, number: i32) {
        self.number().store(number, Ordering::Release);
    }

    pub(crate) fn load(&self) -> i32 {
        self.number().load(Ordering::Acquire)
    }

    /// Copies that this process makes from now on do not have the memory: they must not use `self`, which they never
    /// do when they only go on to another program.
    pub(crate) fn keep_from_copies(&self) -> Result<(), Errno> {
        // SAFETY: the mapping is this value's own.
        let result = unsafe { libc::madvise(self.0.as_ptr().cast(), LENGTH, libc::MADV_DONTFORK) };
        checked(result.into()).map(drop)
    }
}

impl Drop for SharedNumber {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe {
            libc::munmap(self.0.as_ptr().cast(), LENGTH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Cloned, clone_and_store, exit};

    #[test]
    fn a_number_is_stored() {
        let number = SharedNumber::new().unwrap();
        assert_eq!(number.load(), 0);
        number.keep_from_copies().unwrap();
        let Cloned::Parent { pid, pidfd } = clone_and_store(0, None, Some(&number)).unwrap() else { exit(0) };
        assert_eq!(number.load(), pid);
        let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd));
        rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED).unwrap();
    }
}
