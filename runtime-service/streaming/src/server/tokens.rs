//! Offers that wait for their clients, under random tokens.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::port_forward::PortForwardSession;
use crate::process::{ProcessRequest, ProcessSession};

pub(super) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;
pub(super) type Serve<T> = Box<dyn FnOnce(T) -> Serving + Send>;

/// What a client gets for a token.
pub(super) enum Offer {
    Process { request: ProcessRequest, serve: Serve<ProcessSession> },
    PortForward { ports: Vec<u16>, serve: Serve<PortForwardSession> },
}

/// Too many sessions were requested that no client has come for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{max} streaming sessions wait for their clients already: try again in a minute")]
pub struct TooManySessions {
    pub max: usize,
}

pub(super) struct Tokens {
    offers: Mutex<HashMap<String, (Instant, Offer)>>,
    max: usize,
    lifetime: Duration,
}

impl Tokens {
    pub(super) fn new(max: usize, lifetime: Duration) -> Self {
        Self { offers: Mutex::default(), max, lifetime }
    }

    /// Returns the token: 128 random bits.
    pub(super) fn put(&self, offer: Offer) -> Result<String, TooManySessions> {
        let token = random().ok_or(TooManySessions { max: 0 })?;
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        offers.retain(|_, (until, _)| *until > now);
        if offers.len() >= self.max {
            return Err(TooManySessions { max: self.max });
        }
        offers.insert(token.clone(), (now + self.lifetime, offer));
        Ok(token)
    }

    /// Once: the token means nothing afterwards.
    pub(super) fn take(&self, token: &str) -> Option<Offer> {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, offer) = offers.remove(token)?;
        (until > Instant::now()).then_some(offer)
    }
}

/// None: the kernel gives no random bytes, which does not happen once it has booted.
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

    #[test]
    fn a_token_is_good_once_and_no_other_is() {
        let tokens = Tokens::new(2, Duration::from_secs(60));
        let token = tokens.put(offer()).unwrap();
        assert_eq!(token.len(), 32);
        assert!(tokens.take("").is_none());
        assert!(tokens.take(&"0".repeat(32)).is_none());
        assert!(tokens.take(&token).is_some());
        assert!(tokens.take(&token).is_none());
    }

    #[test]
    fn old_tokens_are_not_good_and_make_room() {
        let tokens = Tokens::new(1, Duration::ZERO);
        let token = tokens.put(offer()).unwrap();
        assert!(tokens.take(&token).is_none());
        tokens.put(offer()).unwrap();
        tokens.put(offer()).unwrap();
        let tokens = Tokens::new(1, Duration::from_secs(60));
        tokens.put(offer()).unwrap();
        assert_eq!(tokens.put(offer()), Err(TooManySessions { max: 1 }));
    }
}
