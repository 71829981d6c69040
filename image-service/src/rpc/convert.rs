//! Converts between the contract's messages and the types of this crate.

use crisp_proto::runtime::v1 as proto;
use tonic::Status;

use crate::store::Image;

/// An image in the form of the contract.
pub(super) fn image(image: &Image) -> proto::Image {
    let (uid, username) = user(image.config.config().as_ref().and_then(|config| config.user().as_deref()));
    proto::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| proto::Int64Value { value }),
        username,
        spec: Some(proto::ImageSpec { image: image.id.to_string(), ..proto::ImageSpec::default() }),
        pinned: image.pinned,
    }
}

/// The image that a request names.
pub(super) fn wanted(spec: Option<proto::ImageSpec>) -> Result<String, Status> {
    spec.map(|spec| spec.image)
        .filter(|image| !image.is_empty())
        .ok_or_else(|| Status::invalid_argument("image: the request names no image"))
}

/// The image that a filter names; None means all.
pub(super) fn filtered(filter: Option<proto::ImageFilter>) -> Option<String> {
    filter.and_then(|filter| filter.image).map(|spec| spec.image).filter(|image| !image.is_empty())
}

/// `USER` of the configuration, `user[:group]`: a number is an id, anything else is a name in the container's
/// passwd file. kubelet treats "neither" as root.
fn user(user: Option<&str>) -> (Option<i64>, String) {
    let user = user.unwrap_or_default();
    let name = user.split_once(':').map_or(user, |(name, _)| name);
    match name.parse::<u32>() {
        Ok(uid) => (Some(i64::from(uid)), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_an_id_or_a_name() {
        for (given, uid, name) in [
            (None, None, ""),
            (Some(""), None, ""),
            (Some("0"), Some(0), ""),
            (Some("65532:65532"), Some(65532), ""),
            (Some("nobody"), None, "nobody"),
            (Some("web:staff"), None, "web"),
            (Some(":1"), None, ""),
            (Some("-1"), None, "-1"),
        ] {
            assert_eq!(user(given), (uid, name.to_owned()), "{given:?}");
        }
    }
}
