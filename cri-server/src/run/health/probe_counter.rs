//! Counts consecutive successes or failures of a probe.

use super::super::manifest::Probe;

/// The counts.
#[derive(Debug, Default)]
pub struct ProbeCounter {
    successes: u32,
    failures: u32,
}

impl ProbeCounter {
    /// Adds an outcome. Returns the probe's result once a threshold is reached.
    pub fn add(&mut self, probe: &Probe, is_success: bool) -> Option<bool> {
        if is_success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            (self.successes >= probe.successes).then_some(true)
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            (self.failures >= probe.failures).then_some(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::manifest::Action;
    use super::*;

    #[test]
    fn thresholds_are_of_outcomes_in_a_row() {
        let zero = Duration::ZERO;
        let probe = Probe {
            action: Action::Sleep(zero),
            initial_delay: zero,
            period: zero,
            timeout: zero,
            successes: 2,
            failures: 3,
            grace: None,
        };
        let mut counter = ProbeCounter::default();
        let outcomes = [false, false, true, false, false, false, false, true, true];
        let said: Vec<_> = outcomes.into_iter().map(|outcome| counter.add(&probe, outcome)).collect();
        let not = Some(false);
        assert_eq!(said, [None, None, None, None, None, not, not, None, Some(true)]);
    }
}
