//! Checks a user's login: requests a registry's base path with the credentials (distribution specification,
//! "Determining Support").

use crate::mirror::{Endpoint, MirrorError};
use crate::reference::{InvalidReference, Reference};
use crate::registry::{Auth, Credentials, EndpointError, ErrorKind, InvalidAuth, Target};

use super::Puller;

/// The reason why a login is not valid or cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The name is not a registry.
    #[error(transparent)]
    Registry(#[from] InvalidReference),
    /// The credentials are not valid.
    #[error(transparent)]
    Auth(#[from] InvalidAuth),
    /// The registry's configuration cannot be read.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// There is no registry endpoint that can be used.
    #[error("{0}: its configuration has mirrors alone, and none of them is the registry")]
    NoRegistry(String),
    /// The registry refuses, or does not answer.
    #[error("{registry}: {source}")]
    Endpoint {
        /// The registry as the user named it.
        registry: String,
        /// The endpoint's error.
        source: EndpointError,
    },
}

impl LoginError {
    /// The kind of this failure.
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
    /// Checks with a registry that the user may log in.
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
