//! Checks a user's login: requests a registry's base path with the credentials (distribution specification,
//! "Determining Support").

use std::time::Duration;

use crate::mirror::{Endpoint, MirrorError};
use crate::reference::{InvalidReference, Reference};
use crate::registry::{Auth, Credentials, EndpointError, ErrorKind, InvalidAuth, Target};

use super::Puller;
use super::error::mirror_kind;

/// Time limit for the configuration of the registry.
const CONFIGURATION: Duration = Duration::from_secs(20);

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
    /// It is on a volume that does not answer.
    #[error("the registry's configuration is not read within {after:?}")]
    Configuration {
        /// The time limit.
        after: Duration,
    },
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
            Self::Mirror(error) => mirror_kind(error),
            Self::NoRegistry(_) => ErrorKind::FailedPrecondition,
            Self::Configuration { .. } => ErrorKind::DeadlineExceeded,
            Self::Endpoint { source, .. } => source.kind(),
        }
    }
}

impl Puller {
    /// Checks with a registry that the user may log in.
    pub(crate) async fn check_login(&self, registry: &str, auth: &Auth) -> Result<(), LoginError> {
        let reference = Reference::parse(&format!("{registry}/login"))?;
        let credentials = Credentials::from_auth(auth)?;
        let (puller, name) = (self.clone(), registry.to_owned());
        // This reads the registry's folder and the files of certificates, which may be on a slow volume.
        let find = move || {
            let resolution = puller.shared.mirrors.resolve(&reference)?;
            let found = resolution.endpoints.into_iter().find(Endpoint::is_registry);
            let endpoint = found.ok_or(LoginError::NoRegistry(name))?;
            let target = Target {
                registry: reference.registry(),
                repository: "",
                is_registry: true,
                credentials: credentials.as_ref(),
            };
            Ok::<_, LoginError>(puller.shared.clients.source(endpoint.host, &target))
        };
        let found = tokio::time::timeout(CONFIGURATION, tokio::task::spawn_blocking(find)).await;
        let Ok(Ok(source)) = found else { return Err(LoginError::Configuration { after: CONFIGURATION }) };
        let pinged = source?.ping().await;
        pinged.map_err(|source| LoginError::Endpoint { registry: registry.to_owned(), source })
    }
}
