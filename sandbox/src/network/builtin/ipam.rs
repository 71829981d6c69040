//! The addresses of the pods in the pool: an index of the records on disk.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use crate::network::NetworkError;
use crate::network::pools::Pools;

/// Network address and gateway come before the first pod.
const FIRST: u32 = 2;

/// Allocates IPv4 addresses in ascending order and wraps around; IPv6 addresses are derived from them. A
/// released address is reused last: connections and caches of its last pod have time to expire.
#[derive(Debug)]
pub(super) struct Ipam {
    pools: Pools,
    used: HashSet<u32>,
    next: u32,
}

impl Ipam {
    pub(super) fn new(pools: Pools) -> Self {
        Self { pools, used: HashSet::new(), next: FIRST }
    }

    /// Marks a pod's address as used. If they are restored oldest first, the order continues after the
    /// newest.
    pub(super) fn restore(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.pools.offset_of(address) {
            self.used.insert(offset);
            self.next = self.after(offset);
        }
    }

    pub(super) fn allocate(&mut self) -> Result<Ipv4Addr, NetworkError> {
        let exhausted = NetworkError::PoolExhausted { pools: self.pools.to_string(), used: self.used.len() };
        let usable = self.pools.end().saturating_sub(FIRST) as usize;
        if self.used.len() >= usable {
            return Err(exhausted);
        }
        while self.used.contains(&self.next) {
            self.next = self.after(self.next);
        }
        let offset = self.next;
        self.next = self.after(offset);
        self.used.insert(offset);
        self.pools.nth(offset).ok_or(exhausted)
    }

    /// Takes one address. Returns false when a pod has it.
    pub(super) fn take(&mut self, address: Ipv4Addr) -> Result<bool, NetworkError> {
        let offset =
            self.pools.offset_of(address).filter(|offset| (FIRST..self.pools.end()).contains(offset));
        let offset =
            offset.ok_or_else(|| NetworkError::NotInPool { address, pools: self.pools.to_string() })?;
        Ok(self.used.insert(offset))
    }

    pub(super) fn release(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.pools.offset_of(address) {
            self.used.remove(&offset);
        }
    }

    fn after(&self, offset: u32) -> u32 {
        if offset + 1 >= self.pools.end() { FIRST } else { offset + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(pool: &str) -> Ipam {
        Ipam::new(Pools { v4: pool.parse().unwrap(), v6: None })
    }

    fn last(address: Ipv4Addr) -> u8 {
        address.octets()[3]
    }

    #[test]
    fn a_full_pool_says_so_and_serves_again_after_a_release() {
        let mut ipam = ipam("10.1.1.0/29");
        let all: Vec<u8> = std::iter::from_fn(|| ipam.allocate().ok()).map(last).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        let error = ipam.allocate().unwrap_err().to_string();
        assert_eq!(error, "no free address in 10.1.1.0/29: 5 in use; set pod-cidr to a larger network");
        ipam.release(Ipv4Addr::new(10, 1, 1, 4));
        assert_eq!(last(ipam.allocate().unwrap()), 4);
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_once() {
        let mut ipam = ipam("10.1.1.0/29");
        let wanted = Ipv4Addr::new(10, 1, 1, 3);
        assert!(ipam.take(wanted).unwrap() && !ipam.take(wanted).unwrap());
        let all: Vec<u8> = std::iter::from_fn(|| ipam.allocate().ok()).map(last).collect();
        assert_eq!(all, [2, 4, 5, 6]);
        for outside in [1, 7, 9] {
            let error = ipam.take(Ipv4Addr::new(10, 1, 1, outside)).unwrap_err().to_string();
            assert_eq!(error, format!("10.1.1.{outside} is not an address for a pod in 10.1.1.0/29"));
        }
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
