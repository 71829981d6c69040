//! The error when all endpoints failed, with the reason of each.

use std::fmt;

use crate::registry::{EndpointError, ErrorKind};

/// One endpoint and the reason why it could not serve the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFailure {
    /// Address and origin of the endpoint.
    pub endpoint: String,
    /// Whether it is the registry itself, whose refusal is final.
    pub is_registry: bool,
    /// The reason; `None` when it was not used, because it lacks the capability.
    pub error: Option<EndpointError>,
}

/// All endpoints failed, with the reason of each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct AllFailed {
    /// In the order of the configuration.
    pub failures: Vec<EndpointFailure>,
}

impl AllFailed {
    pub(crate) fn kind(&self) -> ErrorKind {
        let of = |f: &EndpointFailure| f.error.as_ref().map(EndpointError::kind);
        let registry = self.failures.iter().filter(|f| f.is_registry).find_map(of);
        let any = self.failures.iter().rev().find_map(of);
        registry.or(any).unwrap_or(ErrorKind::FailedPrecondition)
    }
}

impl fmt::Display for AllFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, failure) in self.failures.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{}: ", failure.endpoint)?;
            match &failure.error {
                Some(error) => error.fmt(f)?,
                None => f.write_str("not asked, its capabilities do not allow it")?,
            }
        }
        Ok(())
    }
}
