//! Requests to end a running pod.

use tokio::sync::watch;

/// What a person or the system asks of a running pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopRequest {
    /// Nothing: it runs on.
    None,
    /// End within the grace period; the exit code if nothing else fails.
    Stop { code: u8 },
    /// End at once.
    Kill { code: u8 },
}

impl StopRequest {
    /// The request after one more signal with that exit code.
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
}

/// Waits for a request that `wanted` accepts.
pub async fn requested(requests: &mut watch::Receiver<StopRequest>, wanted: impl Fn(StopRequest) -> bool) {
    if requests.wait_for(|request| wanted(*request)).await.is_err() {
        // The sender is gone: no request comes any more.
        std::future::pending::<()>().await;
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
}
