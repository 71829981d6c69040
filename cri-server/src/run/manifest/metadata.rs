//! `metadata` of a Pod, or of the template of pods.

use crisp_executor::ids::PodId;

use super::Map;
use super::strict_object::Object;

/// Fields that an API server writes; exported objects have them.
pub const OF_THE_SERVER: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The name of a pod and its other metadata.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// Empty if the template has none.
    pub name: String,
    /// `generateName`, if the name was made from it.
    pub prefix: Option<String>,
    pub namespace: Option<String>,
    pub uid: Option<String>,
    pub labels: Map,
    pub annotations: Map,
}

/// Reads it. A template needs no name.
pub fn read(object: &Object<'_>, is_template: bool) -> Metadata {
    let generated = object.string("generateName").filter(|text| !text.is_empty());
    let prefix = generated.filter(|_| object.value("name").is_none());
    let name = match (object.value("name"), &prefix) {
        (None, Some(prefix)) => Some(format!("{prefix}{}", &PodId::random().short()[..5])),
        (None, None) if is_template => None,
        _ => object.required("name"),
    };
    if let Some(name) = name.as_ref().filter(|name| !is_dns_name(name)) {
        object
            .refuse("name", format_args!("{name:?} is not a name: lower-case letters, digits, '-' and '.'"));
    }
    let metadata = Metadata {
        name: name.unwrap_or_default(),
        prefix,
        namespace: part_of_identity(object, "namespace"),
        uid: part_of_identity(object, "uid").inspect(|uid| {
            // Beside the pod's folder there is a file named after it.
            if uid.contains('.') {
                object.refuse("uid", format_args!("{uid:?} has a dot: letters, digits and '-' only"));
            }
        }),
        labels: object.string_map("labels"),
        annotations: object.string_map("annotations"),
    };
    object.without_effect(&OF_THE_SERVER[..9]);
    object.finish();
    metadata
}

/// Folders are named after it, so it must not be a path.
fn part_of_identity(metadata: &Object<'_>, field: &str) -> Option<String> {
    let text = metadata.string(field).filter(|text| !text.is_empty())?;
    if !is_dns_name(&text.to_ascii_lowercase()) {
        metadata.refuse(field, format_args!("{text:?} is not a name: letters, digits, '-' and '.'"));
    }
    Some(text)
}

/// Whether it can be the name of a Kubernetes object (RFC 1123).
pub fn is_dns_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |l: &str| {
        l.bytes().all(|b| plain(b) || b == b'-')
            && l.bytes().next().is_some_and(plain)
            && l.bytes().next_back().is_some_and(plain)
    };
    text.len() <= 253 && text.split('.').all(label)
}
