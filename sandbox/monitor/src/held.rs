//! Requests that are held, see `ops/hold.rs`.

use std::time::{Duration, Instant};

use crisp_monitor::wire::request::{ExecRequest, StartRequest};

use crate::launch::Requester;

/// Time limit. Well within the server's: it must not get a process that it has given up.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) enum Held {
    Start(Box<StartRequest>),
    Exec(Box<ExecRequest>),
}

pub(crate) struct HeldRequest {
    pub(crate) requester: Requester,
    pub(crate) request: Held,
    pub(crate) until: Instant,
}

impl HeldRequest {
    pub(crate) fn new(requester: Requester, request: Held) -> Self {
        Self { requester, request, until: Instant::now() + LIMIT }
    }
}
