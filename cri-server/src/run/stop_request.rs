//! Requests to end a running pod.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

/// A request of a person or the system to a running pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopRequest {
    /// None: the pod continues.
    None,
    /// End within the grace period; `code` is the exit code if nothing else fails.
    Stop { code: u8 },
    /// End at once.
    Kill { code: u8 },
}

/// The code of a pod that ends because crisp itself failed.
const OWN_FAILURE: u8 = 125;
/// The code of a pod whose emptyDir is larger than its sizeLimit.
pub const EVICTED: u8 = 123;
/// The code of a pod that has run longer than its activeDeadlineSeconds, as that of timeout(1).
pub const DEADLINE: u8 = 124;
/// The code of a pod whose sandbox is gone, unless its containers give another.
pub const LOST: u8 = 255;

impl StopRequest {
    /// The request after another signal with that exit code.
    pub fn next(self, code: u8) -> Self {
        match self {
            Self::None => Self::Stop { code },
            Self::Stop { .. } | Self::Kill { .. } => Self::Kill { code },
        }
    }

    /// The exit code of a pod that ended because of it.
    pub fn code(self) -> Option<u8> {
        match self {
            Self::None => None,
            Self::Stop { code } | Self::Kill { code } => Some(code),
        }
    }

    /// Whether the pod must end.
    pub fn is_any(self) -> bool {
        self != Self::None
    }

    /// Whether the pod must end at once.
    pub fn is_kill(self) -> bool {
        matches!(self, Self::Kill { .. })
    }
}

/// The latest request; clones share it. Signals and failures of containers set it.
#[derive(Debug, Clone)]
pub struct StopRequests {
    request: watch::Sender<StopRequest>,
    grace: Arc<OnceLock<u32>>,
}

impl StopRequests {
    /// No request yet.
    pub fn new() -> Self {
        Self { request: watch::Sender::new(StopRequest::None), grace: Arc::default() }
    }

    /// Adds a signal with its exit code.
    pub fn signal(&self, code: u8) {
        self.request.send_modify(|request| *request = request.next(code));
    }

    /// Ends the pod within its grace period after a failure of crisp itself, unless it is ending already.
    pub fn after_failure(&self) {
        self.stop_with(OWN_FAILURE);
    }

    /// Ends the pod within its grace period with that exit code, unless it is ending already.
    pub fn stop_with(&self, code: u8) {
        self.request.send_if_modified(|request| {
            let first = *request == StopRequest::None;
            if first {
                *request = StopRequest::Stop { code };
            }
            first
        });
    }

    /// Like [`stop_with`](Self::stop_with), with another grace period than the pod's, in seconds.
    pub fn stop_within(&self, code: u8, grace: u32) {
        let _ = self.grace.set(grace);
        self.stop_with(code);
    }

    /// The grace period that a request has set.
    pub fn grace(&self) -> Option<u32> {
        self.grace.get().copied()
    }

    /// Passes requests to all pods on to one of them. That pod has its own requests too, which no other pod
    /// gets, such as its deadline.
    pub async fn pass_on_to(self, one: Self) {
        let request = self.wait_for(StopRequest::is_any).await;
        one.stop_with(request.code().unwrap_or_default());
        let request = self.wait_for(StopRequest::is_kill).await;
        one.signal(request.code().unwrap_or_default());
    }

    /// The latest request.
    pub fn now(&self) -> StopRequest {
        *self.request.borrow()
    }

    /// Waits for a request that `wanted` accepts, and returns it.
    pub async fn wait_for(&self, wanted: impl Fn(StopRequest) -> bool) -> StopRequest {
        let mut requests = self.request.subscribe();
        loop {
            let request = *requests.borrow_and_update();
            // The sender is in `self`, so there is always a next change to wait for.
            if wanted(request) || requests.changed().await.is_err() {
                return request;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_signal_kills() {
        let first = StopRequest::None.next(130);
        assert_eq!((first, first.code()), (StopRequest::Stop { code: 130 }, Some(130)));
        assert_eq!(first.next(143), StopRequest::Kill { code: 143 });
    }

    #[test]
    fn a_request_can_have_its_own_grace_period() {
        let requests = StopRequests::new();
        assert_eq!(requests.grace(), None);
        requests.clone().stop_within(143, 3);
        assert_eq!((requests.now(), requests.grace()), (StopRequest::Stop { code: 143 }, Some(3)));
    }

    #[tokio::test]
    async fn a_failure_stops_once_and_a_signal_after_it_kills() {
        let requests = StopRequests::new();
        requests.after_failure();
        requests.after_failure();
        assert_eq!(requests.wait_for(StopRequest::is_any).await, StopRequest::Stop { code: OWN_FAILURE });
        requests.signal(130);
        assert!(requests.now().is_kill());
    }
}
