//! The addresses of the pods in the pool: an index of the records on disk.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::Range;

use crate::network::pools::Pools;
use crate::network::{Addresses, NetworkError};

/// Network address and gateway come before the first pod.
const FIRST: u32 = 2;

/// Allocates IPv4 addresses in ascending order and wraps around; IPv6 addresses are derived from them. A
/// released address is reused last: connections and caches of its last pod have time to expire.
#[derive(Debug)]
pub(super) struct Ipam {
    pools: Pools,
    used: HashSet<u32>,
    /// Never given to pods.
    reserved: HashSet<u32>,
    /// For pods that request no address.
    range: Range<u32>,
    next: u32,
}

impl Ipam {
    pub(super) fn new(pools: Pools, addresses: &Addresses) -> Self {
        let whole = FIRST..pools.end();
        let range = addresses.range.map_or(whole.clone(), |range| {
            let first = pools.offset_of(range.network()).unwrap_or(FIRST).max(FIRST);
            let last = pools.offset_of(range.broadcast()).unwrap_or(u32::MAX);
            first..last.saturating_add(1).min(whole.end)
        });
        let reserved =
            addresses.reserved.iter().copied().chain([pools.gateway_v4()]).chain(addresses.gateway);
        let reserved = reserved.filter_map(|address| pools.offset_of(address)).collect();
        Self { pools, used: HashSet::new(), reserved, next: range.start, range }
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
        let mut offset = self.next;
        let mut tries = self.range.len();
        while tries > 0 && (self.used.contains(&offset) || self.reserved.contains(&offset)) {
            offset = self.after(offset);
            tries -= 1;
        }
        if tries == 0 {
            return Err(exhausted);
        }
        self.next = self.after(offset);
        self.used.insert(offset);
        self.pools.nth(offset).ok_or(exhausted)
    }

    /// Takes one address. Returns false when a pod has it.
    pub(super) fn take(&mut self, address: Ipv4Addr) -> Result<bool, NetworkError> {
        let offset =
            self.pools.offset_of(address).filter(|offset| (FIRST..self.pools.end()).contains(offset));
        let offset = offset.filter(|offset| !self.reserved.contains(offset));
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
        if self.range.contains(&(offset + 1)) { offset + 1 } else { self.range.start }
    }
}

/// Whether a pod could get an address.
pub(in crate::network) fn has_room(pools: Pools, addresses: &Addresses) -> bool {
    Ipam::new(pools, addresses).allocate().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(pool: &str) -> Ipam {
        Ipam::new(pools(pool), &Addresses::default())
    }

    fn pools(pool: &str) -> Pools {
        Pools { v4: pool.parse().unwrap(), v6: None, gateway: None }
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
    fn a_range_is_for_pods_without_a_request_and_reserved_addresses_for_none() {
        let addresses = Addresses {
            gateway: Some(Ipv4Addr::new(10, 1, 1, 10)),
            range: Some("10.1.1.8/29".parse().unwrap()),
            reserved: vec![Ipv4Addr::new(10, 1, 1, 12), Ipv4Addr::new(10, 1, 1, 20)],
        };
        let pools = Pools { gateway: addresses.gateway, ..pools("10.1.1.0/24") };
        let mut ipam = Ipam::new(pools, &addresses);
        let all: Vec<u8> = std::iter::from_fn(|| ipam.allocate().ok()).map(last).collect();
        assert_eq!(all, [8, 9, 11, 13, 14, 15]);
        assert!(
            ipam.take(Ipv4Addr::new(10, 1, 1, 30)).unwrap(),
            "outside of the range, when it is requested"
        );
        for reserved in [1, 10, 12, 20] {
            assert!(ipam.take(Ipv4Addr::new(10, 1, 1, reserved)).is_err(), "{reserved}");
        }
        ipam.release(Ipv4Addr::new(10, 1, 1, 9));
        assert_eq!(last(ipam.allocate().unwrap()), 9);
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
