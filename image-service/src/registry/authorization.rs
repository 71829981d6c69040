//! `Authorization` headers that a server accepted, kept until they expire.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;

/// Limit for kept headers.
const MAX_KEPT: usize = 512;
/// Limit for the lifetime of a header, regardless of the server.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The scope of a header: server, repository and user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AuthorizationKey {
    pub(crate) origin: String,
    pub(crate) repository: String,
    pub(crate) fingerprint: String,
}

/// Accepted `Authorization` headers, until they expire.
#[derive(Default)]
pub(crate) struct AuthorizationCache(Mutex<HashMap<AuthorizationKey, Accepted>>);

struct Accepted {
    header: HeaderValue,
    expires: Instant,
}

impl AuthorizationCache {
    pub(crate) fn get(&self, key: &AuthorizationKey) -> Option<HeaderValue> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(key).filter(|kept| kept.expires > Instant::now()).map(|kept| kept.header.clone())
    }

    pub(crate) fn put(&self, key: &AuthorizationKey, header: HeaderValue, lifetime: Duration) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if cache.len() >= MAX_KEPT {
            cache.retain(|_, kept| kept.expires > now);
        }
        if cache.len() >= MAX_KEPT {
            cache.clear();
        }
        // Renewed a little early, so that it does not expire in transit.
        let lifetime = lifetime.min(MAX_LIFETIME);
        cache.insert(key.clone(), Accepted { header, expires: now + (lifetime - lifetime / 10) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_life_is_too_long_and_the_cache_stays_bounded() {
        let cache = AuthorizationCache::default();
        let key = |n: usize| AuthorizationKey {
            origin: format!("https://r{n}.io"),
            repository: "app".to_owned(),
            fingerprint: String::new(),
        };
        for n in 0..2 * MAX_KEPT {
            cache.put(&key(n), HeaderValue::from_static("x"), Duration::MAX);
        }
        assert!(cache.0.lock().unwrap().len() <= MAX_KEPT);
        assert!(cache.get(&key(2 * MAX_KEPT - 1)).is_some());
    }
}
