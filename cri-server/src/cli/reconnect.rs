//! Requests that are repeated while the server restarts.

use std::error::Error as _;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status, transport};

/// Time limit for one restart of the server.
const LIMIT: Duration = Duration::from_secs(30);

/// The time since which the server has not answered.
#[derive(Debug, Default)]
pub struct Reconnect {
    lost_since: Option<Instant>,
}

impl Reconnect {
    /// The server has answered: the next restart has the whole time again.
    pub fn answered(&mut self) {
        self.lost_since = None;
    }

    /// Whether the failed request may be repeated: the server is away, and not yet for long.
    pub fn may_repeat(&mut self, failure: &Status) -> bool {
        let is_of_connection = failure.source().is_some_and(|source| source.is::<transport::Error>());
        if failure.code() != Code::Unavailable && !is_of_connection {
            return false;
        }
        self.lost_since.get_or_insert_with(Instant::now).elapsed() <= LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_restart_has_its_own_time() {
        let (mut reconnect, away) = (Reconnect::default(), Status::unavailable("restarts"));
        assert!(!reconnect.may_repeat(&Status::internal("broken")));
        for _ in 0..3 {
            assert!(reconnect.may_repeat(&away));
            tokio::time::advance(LIMIT).await;
            assert!(reconnect.may_repeat(&away));
            reconnect.answered();
            tokio::time::advance(LIMIT).await;
        }
        assert!(reconnect.may_repeat(&away));
        tokio::time::advance(LIMIT + Duration::from_secs(1)).await;
        assert!(!reconnect.may_repeat(&away));
    }
}
