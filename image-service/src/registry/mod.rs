//! The registry client: HTTP, authentication, manifests and blobs of the distribution specification.
//!
//! Everything here speaks to exactly one endpoint and says why that endpoint failed; which endpoint is
//! asked next, and for how long, is decided in [`crate::pull`].

mod blob;
mod challenge;
mod clients;
mod credentials;
mod dial;
mod error;
mod explain;
mod http;
mod manifest;
mod secret;
mod source;
mod tls;
mod token;
mod url;

pub use self::credentials::{Auth, InvalidAuth};
pub use self::error::{EndpointError, ErrorKind};
pub use self::http::Timeouts;
pub use self::secret::Secret;
pub use self::tls::{ClientPair, TlsError, TlsOptions};
pub use self::url::{InvalidUrl, Url};

pub(crate) use self::clients::Clients;
pub(crate) use self::credentials::Credentials;
pub(crate) use self::manifest::RawManifest;
pub(crate) use self::source::Source;
