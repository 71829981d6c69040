//! PullImage: the response has the image's id, from which containers are then created.

use crisp_proto::runtime::v1::{AuthConfig, PullImageRequest, PullImageResponse};
use tonic::Status;

use super::{convert, error};
use crate::ImageService;
use crate::pull::PullRequest;
use crate::registry::{Auth, Secret};

pub(super) async fn response(
    service: &ImageService,
    request: PullImageRequest,
) -> Result<PullImageResponse, Status> {
    let reference = convert::wanted(request.image)?;
    let pod = request.sandbox_config.and_then(|config| config.metadata);
    let pod = pod.map(|metadata| format!("{}/{}", metadata.namespace, metadata.name));
    let pull = PullRequest { reference, auth: request.auth.map(auth), pod };
    let id = service.pull(&pull, None).await.map_err(|e| error::of_pull(&e))?;
    Ok(PullImageResponse { image_ref: id.to_string() })
}

pub(super) fn auth(auth: AuthConfig) -> Auth {
    Auth {
        username: auth.username,
        password: Secret::new(auth.password),
        auth: Secret::new(auth.auth),
        server_address: auth.server_address,
        identity_token: Secret::new(auth.identity_token),
        registry_token: Secret::new(auth.registry_token),
    }
}
