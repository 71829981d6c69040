//! Texts that are logged once per server: what a host cannot do concerns every container on it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Texts can contain paths of containers; when there are more, they are all logged.
const MAX_TEXTS: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct LogOnce(Mutex<BTreeSet<String>>);

impl LogOnce {
    /// Whether the text has not been logged yet. From now on it has.
    pub(crate) fn is_new(&self, text: &str) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.contains(text) {
            return false;
        }
        if logged.len() < MAX_TEXTS {
            logged.insert(text.to_owned());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_new_once_and_the_memory_for_it_is_bounded() {
        let once = LogOnce::default();
        assert!(once.is_new("RLIMIT_NOFILE"));
        assert!(!once.is_new("RLIMIT_NOFILE"));
        assert!((0..2 * MAX_TEXTS).all(|number| once.is_new(&number.to_string())));
        assert_eq!(once.0.lock().unwrap().len(), MAX_TEXTS);
        assert!(!once.is_new("RLIMIT_NOFILE"));
    }
}
