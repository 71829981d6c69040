//! Requests to endpoints other than for layers.

use bytes::Bytes;

use super::endpoint::Capability;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::registry::{EndpointError, RawManifest, Source};

/// A small request, which any endpoint with the capability can serve.
pub(crate) trait Request: Sync {
    type Response: Send;

    /// The capability that it needs.
    fn capability(&self) -> Capability;

    /// Sends it to one endpoint.
    fn send(&self, source: &Source) -> impl Future<Output = Result<Self::Response, EndpointError>> + Send;
}

/// Resolves a reference to its present digest; `None` when the registry does not tell.
pub(crate) struct ResolveDigest<'a>(pub(crate) &'a Reference);

/// The manifest of a reference.
pub(crate) struct ManifestOf<'a>(pub(crate) &'a Reference);

/// The manifest with this digest.
pub(crate) struct ManifestByDigest<'a>(pub(crate) &'a Digest);

/// The small blob with this digest and size.
pub(crate) struct SmallBlob<'a>(pub(crate) &'a Digest, pub(crate) u64);

/// Only a tag must be resolved; a digest is content.
fn capability_for(reference: &Reference) -> Capability {
    if reference.digest().is_some() { Capability::Pull } else { Capability::Resolve }
}

impl Request for ResolveDigest<'_> {
    type Response = Option<Digest>;

    fn capability(&self) -> Capability {
        capability_for(self.0)
    }

    async fn send(&self, source: &Source) -> Result<Option<Digest>, EndpointError> {
        source.resolve(self.0.wanted()).await
    }
}

impl Request for ManifestOf<'_> {
    type Response = RawManifest;

    fn capability(&self) -> Capability {
        capability_for(self.0)
    }

    async fn send(&self, source: &Source) -> Result<RawManifest, EndpointError> {
        source.manifest(self.0.wanted()).await
    }
}

impl Request for ManifestByDigest<'_> {
    type Response = RawManifest;

    fn capability(&self) -> Capability {
        Capability::Pull
    }

    async fn send(&self, source: &Source) -> Result<RawManifest, EndpointError> {
        source.manifest(self.0.as_str()).await
    }
}

impl Request for SmallBlob<'_> {
    type Response = Bytes;

    fn capability(&self) -> Capability {
        Capability::Pull
    }

    async fn send(&self, source: &Source) -> Result<Bytes, EndpointError> {
        source.small_blob(self.0, self.1).await
    }
}
