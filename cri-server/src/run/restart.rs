//! The rules of kubelet for restarting a container, and for the delay before that.

use std::time::Duration;

use super::manifest::RestartPolicy;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// A container that ran this long counts as healthy: its delays start from the beginning.
const HEALTHY: Duration = Duration::from_secs(600);

/// Whether a container that ended with `code` is restarted.
pub fn again(policy: RestartPolicy, code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

/// Growing delays between starts.
#[derive(Debug, Default)]
pub struct BackOff {
    next: Option<Duration>,
}

impl BackOff {
    /// The delay before the next start, after the container ran for `ran`. The first start has none.
    pub fn wait(&mut self, ran: Duration) -> Duration {
        if ran >= HEALTHY {
            self.next = None;
        }
        let wait = self.next.unwrap_or_default();
        self.next = Some(if wait.is_zero() { FIRST } else { (wait * 2).min(LONGEST) });
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_decide_by_the_exit_code() {
        for (policy, success, failure) in [
            (RestartPolicy::Always, true, true),
            (RestartPolicy::OnFailure, false, true),
            (RestartPolicy::Never, false, false),
        ] {
            assert_eq!((again(policy, 0), again(policy, 3)), (success, failure), "{policy:?}");
        }
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_begin_anew_after_a_long_run() {
        let mut back_off = BackOff::default();
        let waits: Vec<_> = (0..8).map(|_| back_off.wait(Duration::ZERO).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(back_off.wait(HEALTHY), Duration::ZERO);
        assert_eq!(back_off.wait(Duration::ZERO), FIRST);
    }
}
