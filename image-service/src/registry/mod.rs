//! The registry client: HTTP, authentication, manifests and blobs of the distribution specification.
//!
//! The code here talks to exactly one server and reports why that server failed. [`crate::mirror`] decides
//! which server is tried next, and for how long.

mod authenticate;
mod authorization;
mod blob;
mod body;
mod challenge;
mod clients;
mod credentials;
mod dial;
mod error;
mod explain;
mod host;
mod http;
mod manifest;
mod proxy;
mod secret;
mod source;
mod tls;
mod url;

pub use self::credentials::{Auth, InvalidAuth};
pub use self::error::{EndpointError, ErrorKind};
pub use self::host::Host;
pub use self::http::Timeouts;
pub use self::secret::Secret;
pub use self::tls::{ClientPair, TlsError, TlsOptions};
pub use self::url::{InvalidUrl, Url};

pub(crate) use self::body::Pace;
#[cfg(feature = "fuzz")]
pub(crate) use self::challenge::parse as parse_challenge;
pub(crate) use self::clients::Clients;
pub(crate) use self::credentials::Credentials;
pub(crate) use self::manifest::RawManifest;
pub(crate) use self::source::{Source, Target};
