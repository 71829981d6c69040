//! Which pod has which address of the pool: an index of the records on disk.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::network::NetworkError;
use crate::network::pools::{last_offset, nth, offset_of};

/// Network address and gateway come before the first pod.
const FIRST: u32 = 2;

/// Allocates addresses in ascending order and wraps around, so that a released address is reused last:
/// connections and caches of its last pod have time to expire.
#[derive(Debug)]
pub(super) struct Ipam {
    pool: Ipv4Net,
    used: HashSet<u32>,
    next: u32,
}

impl Ipam {
    pub(super) fn new(pool: Ipv4Net) -> Self {
        Self { pool, used: HashSet::new(), next: FIRST }
    }

    pub(super) fn pool(&self) -> Ipv4Net {
        self.pool
    }

    /// Notes an address that a pod has. Going through them oldest first makes the order go on from the
    /// newest.
    pub(super) fn restore(&mut self, address: Ipv4Addr) {
        if let Some(offset) = offset_of(self.pool, address) {
            self.used.insert(offset);
            self.next = self.after(offset);
        }
    }

    pub(super) fn allocate(&mut self) -> Result<Ipv4Addr, NetworkError> {
        let exhausted = NetworkError::PoolExhausted { pool: self.pool, used: self.used.len() };
        // The last address is the broadcast one.
        let usable = last_offset(self.pool).saturating_sub(FIRST) as usize;
        if self.used.len() >= usable {
            return Err(exhausted);
        }
        while self.used.contains(&self.next) {
            self.next = self.after(self.next);
        }
        let offset = self.next;
        self.next = self.after(offset);
        self.used.insert(offset);
        nth(self.pool, offset).ok_or(exhausted)
    }

    pub(super) fn release(&mut self, address: Ipv4Addr) {
        if let Some(offset) = offset_of(self.pool, address) {
            self.used.remove(&offset);
        }
    }

    fn after(&self, offset: u32) -> u32 {
        if offset + 1 >= last_offset(self.pool) { FIRST } else { offset + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(pool: &str) -> Ipam {
        Ipam::new(pool.parse().unwrap())
    }

    fn last(address: Ipv4Addr) -> u8 {
        address.octets()[3]
    }

    #[test]
    fn a_full_pool_says_so_and_serves_again_after_a_release() {
        let mut ipam = ipam("10.1.1.0/29");
        assert_eq!(last(crate::network::pools::gateway(ipam.pool())), 1);
        let all: Vec<u8> = std::iter::from_fn(|| ipam.allocate().ok()).map(last).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        let error = ipam.allocate().unwrap_err().to_string();
        assert_eq!(error, "no free address in 10.1.1.0/29: 5 in use; set pod_cidr to a larger network");
        ipam.release(Ipv4Addr::new(10, 1, 1, 4));
        assert_eq!(last(ipam.allocate().unwrap()), 4);
    }

    #[test]
    fn a_released_address_rests() {
        let mut ipam = ipam("10.1.1.0/24");
        let first = ipam.allocate().unwrap();
        ipam.release(first);
        assert_ne!(ipam.allocate().unwrap(), first);
    }

    #[test]
    fn the_smallest_pool_has_one_pod() {
        let mut ipam = ipam("10.1.1.0/30");
        assert_eq!(last(ipam.allocate().unwrap()), 2);
        assert!(ipam.allocate().is_err());
    }

    #[test]
    fn order_goes_on_after_a_restart_and_foreign_addresses_do_not_count() {
        let mut ipam = ipam("10.1.1.0/24");
        ipam.restore(Ipv4Addr::new(10, 1, 1, 9));
        ipam.restore(Ipv4Addr::new(10, 9, 9, 9));
        assert_eq!(last(ipam.allocate().unwrap()), 10);
    }
}
