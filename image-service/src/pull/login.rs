//! Whether a registry lets a user in: its base path, with the user's credentials (distribution specification,
//! "Determining Support").

use crate::mirror::{Endpoint, MirrorError};
use crate::reference::{InvalidReference, Reference};
use crate::registry::{Auth, Credentials, EndpointError, ErrorKind, InvalidAuth, Target};

use super::Puller;

/// Why a login is not good, or cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The registry is none.
    #[error(transparent)]
    Registry(#[from] InvalidReference),
    /// The credentials cannot be used.
    #[error(transparent)]
    Auth(#[from] InvalidAuth),
    /// The registry's configuration cannot be read.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// No registry is there to be asked.
    #[error("{0}: its configuration has mirrors alone, and none of them is the registry")]
    NoRegistry(String),
    /// The registry says no, or nothing.
    #[error("{registry}: {source}")]
    Endpoint {
        /// As it was named.
        registry: String,
        /// What it says.
        source: EndpointError,
    },
}

impl LoginError {
    /// What went wrong, coarsely.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Registry(_) | Self::Auth(_) => ErrorKind::InvalidArgument,
            Self::Mirror(_) => ErrorKind::Internal,
            Self::NoRegistry(_) => ErrorKind::FailedPrecondition,
            Self::Endpoint { source, .. } => source.kind(),
        }
    }
}

impl Puller {
    /// Asks a registry whether it lets a user in.
    pub(crate) async fn check_login(&self, registry: &str, auth: &Auth) -> Result<(), LoginError> {
        let reference = Reference::parse(&format!("{registry}/login"))?;
        let credentials = Credentials::from_auth(auth)?;
        let resolution = self.shared.mirrors.resolve(&reference)?;
        let found = resolution.endpoints.into_iter().find(Endpoint::is_registry);
        let endpoint = found.ok_or_else(|| LoginError::NoRegistry(registry.to_owned()))?;
        let target = Target {
            registry: reference.registry(),
            repository: "",
            is_registry: true,
            credentials: credentials.as_ref(),
        };
        let pinged = self.shared.clients.source(endpoint.host, &target).ping().await;
        pinged.map_err(|source| LoginError::Endpoint { registry: registry.to_owned(), source })
    }
}
