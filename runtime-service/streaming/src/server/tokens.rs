//! Offers of sessions that wait for their clients, by random token.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior};

use crate::port_forward::PortForwardSession;
use crate::process::{ProcessRequest, ProcessSession};
use crate::slots::Limit;

/// The shortest interval between two searches for expired offers.
const MIN_LOOK: Duration = Duration::from_millis(10);
const MAX_LOOK: Duration = Duration::from_secs(5);

pub(super) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;
pub(super) type Serve<T> = Box<dyn FnOnce(T) -> Serving + Send>;

/// The session that a client gets for a token.
pub(super) enum Offer {
    Process { request: ProcessRequest, serve: Serve<ProcessSession> },
    PortForward { ports: Vec<u16>, serve: Serve<PortForwardSession> },
}

/// Too many sessions that were requested have no client yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{max} streaming sessions wait for their clients already: try again in a minute")]
pub struct TooManySessions {
    pub max: usize,
}

pub(super) struct Tokens {
    waiting: Mutex<HashMap<String, Waiting>>,
    max: Limit,
    lifetime: Duration,
}

struct Waiting {
    owner: Arc<str>,
    until: Instant,
    offer: Offer,
}

impl Tokens {
    pub(super) fn new(max: Limit, lifetime: Duration) -> Self {
        Self { waiting: Mutex::default(), max, lifetime }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an offer and returns its token: 128 random bits.
    pub(super) fn put(&self, owner: Arc<str>, offer: Offer) -> Result<String, TooManySessions> {
        let token = random().ok_or(TooManySessions { max: 0 })?;
        self.drop_old();
        let mut waiting = self.lock();
        if waiting.len() >= self.max.all {
            return Err(TooManySessions { max: self.max.all });
        }
        if waiting.values().filter(|other| other.owner == owner).count() >= self.max.each {
            return Err(TooManySessions { max: self.max.each });
        }
        waiting.insert(token.clone(), Waiting { owner, until: Instant::now() + self.lifetime, offer });
        Ok(token)
    }

    /// Takes the offer of a token, which is then used up. `admit` is called first; when it refuses, the offer
    /// stays.
    pub(super) fn take<T, E>(
        &self,
        token: &str,
        admit: impl FnOnce(&Arc<str>, &Offer) -> Result<T, E>,
    ) -> Option<Result<(Offer, T), E>> {
        let mut all = self.lock();
        let waiting = all.get(token).filter(|waiting| waiting.until > Instant::now())?;
        match admit(&waiting.owner, &waiting.offer) {
            Ok(admitted) => all.remove(token).map(|waiting| Ok((waiting.offer, admitted))),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// Drops expired offers.
    pub(super) fn drop_old(&self) {
        let now = Instant::now();
        let old: Vec<_> = self.lock().extract_if(|_, waiting| waiting.until <= now).collect();
        // Dropped without the lock: dropping an offer runs code of other modules.
        drop(old);
    }

    /// The times at which [`drop_old`](Self::drop_old) is to be called.
    pub(super) fn looks(&self) -> Interval {
        let mut looks = tokio::time::interval(self.lifetime.clamp(MIN_LOOK, MAX_LOOK));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks
    }
}

/// Returns None when the kernel has no random bytes, which does not happen once it has booted.
fn random() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        let serve: Serve<PortForwardSession> = Box::new(|_| Box::pin(std::future::ready(())));
        Offer::PortForward { ports: vec![], serve }
    }

    fn tokens(each: usize, all: usize, lifetime: Duration) -> Tokens {
        Tokens::new(Limit { each, all }, lifetime)
    }

    fn take(tokens: &Tokens, token: &str) -> bool {
        tokens.take(token, |_, _| Ok::<_, ()>(())).is_some()
    }

    #[test]
    fn a_token_is_good_once_and_no_other_is() {
        let tokens = tokens(2, 2, Duration::from_secs(60));
        let token = tokens.put("pod".into(), offer()).unwrap();
        assert_eq!(token.len(), 32);
        assert!(!take(&tokens, ""));
        assert!(!take(&tokens, &"0".repeat(32)));
        assert!(take(&tokens, &token));
        assert!(!take(&tokens, &token));
    }

    #[test]
    fn a_client_that_is_not_admitted_does_not_use_its_token_up() {
        let tokens = tokens(1, 1, Duration::from_secs(60));
        let token = tokens.put("pod".into(), offer()).unwrap();
        assert!(matches!(tokens.take(&token, |_, _| Err::<(), _>("full")), Some(Err("full"))));
        assert!(take(&tokens, &token));
    }

    #[test]
    fn old_tokens_are_not_good_and_make_room() {
        let zero = tokens(1, 1, Duration::ZERO);
        let token = zero.put("pod".into(), offer()).unwrap();
        assert!(!take(&zero, &token));
        zero.put("pod".into(), offer()).unwrap();
        zero.put("pod".into(), offer()).unwrap();
        let tokens = tokens(1, 2, Duration::from_secs(60));
        tokens.put("pod".into(), offer()).unwrap();
        assert_eq!(tokens.put("pod".into(), offer()), Err(TooManySessions { max: 1 }));
        tokens.put("other".into(), offer()).unwrap();
        assert_eq!(tokens.put("third".into(), offer()), Err(TooManySessions { max: 2 }));
    }
}
