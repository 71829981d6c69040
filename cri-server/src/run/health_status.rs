//! The health of a container, as its checks have found it.

use std::collections::VecDeque;

/// Checks that are kept, as docker keeps them.
const KEPT: usize = 5;

/// Bytes of a failure that are kept, as docker keeps them: a list of all pods has those of all checks.
const LONGEST: usize = 4096;

/// The newest result of the checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HealthStatus {
    /// Not enough checks were made.
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// In docker's words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The health of a container that has checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    pub status: HealthStatus,
    /// Failed checks since the last success.
    pub failing_streak: u32,
    /// The newest ones, the oldest first.
    pub checks: VecDeque<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Nanoseconds since 1970.
    pub began_at: i64,
    pub ended_at: i64,
    /// The reason why it failed.
    pub failure: Option<String>,
}

impl Health {
    /// Adds a check. `is_ready`: the result, once enough checks in a row agree.
    pub fn add(&mut self, mut check: Check, is_ready: Option<bool>) {
        if let Some(failure) = &mut check.failure {
            let most = LONGEST.min(failure.len());
            let whole = (0..=most).rev().find(|at| failure.is_char_boundary(*at));
            failure.truncate(whole.unwrap_or(0));
        }
        self.failing_streak = if check.failure.is_some() { self.failing_streak.saturating_add(1) } else { 0 };
        match is_ready {
            Some(true) => self.status = HealthStatus::Healthy,
            Some(false) => self.status = HealthStatus::Unhealthy,
            None => {}
        }
        if self.checks.len() == KEPT {
            self.checks.pop_front();
        }
        self.checks.push_back(check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_the_newest_checks_are_kept() {
        let check =
            |failure: Option<&str>| Check { began_at: 1, ended_at: 2, failure: failure.map(str::to_owned) };
        let mut health = Health::default();
        assert_eq!(health.status.word(), "starting");
        health.add(check(Some("a")), None);
        health.add(check(Some("b")), Some(false));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Unhealthy, 2));
        for _ in 0..9 {
            health.add(check(None), Some(true));
        }
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 0));
        assert_eq!(health.checks.len(), KEPT);
        let long = format!("a{}", "ä".repeat(LONGEST));
        health.add(check(Some(&long)), None);
        assert_eq!(health.checks.back().unwrap().failure.as_ref().unwrap().len(), LONGEST - 1);
    }
}
