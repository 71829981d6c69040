//! Environment variables: values and their other sources.

use super::quantity::{self, ResourceRef};
use super::strict_object::Object;

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    pub name: String,
    pub source: EnvSource,
}

/// The source of a variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvSource {
    /// A text in which `$(NAME)` is not yet expanded.
    Value(String),
    Field(FieldPath),
    Resource(ResourceRef),
    ConfigMap(KeyRef),
    Secret(KeyRef),
}

/// A value of a ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRef {
    pub name: String,
    pub key: String,
    pub optional: bool,
}

/// All values of a ConfigMap or Secret as variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFrom {
    pub prefix: String,
    pub name: String,
    pub is_secret: bool,
    pub optional: bool,
}

/// A field of the Pod that can be the value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldPath {
    Name,
    Namespace,
    Uid,
    Label(String),
    Annotation(String),
    Labels,
    Annotations,
    NodeName,
    ServiceAccount,
    HostIp,
    HostIps,
    PodIp,
    PodIps,
}

/// The use of a field: volumes are made before the pod has an address, and variables are one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldUse {
    Variable,
    File,
}

/// Reads `env`.
pub fn read_env(container: &Object<'_>) -> Vec<EnvVar> {
    container.objects("env").iter().filter_map(variable).collect()
}

fn variable(object: &Object<'_>) -> Option<EnvVar> {
    let (name, value) = (object.required("name"), object.string("value"));
    let from = object.object("valueFrom");
    object.finish();
    if name.as_ref().is_some_and(|name| name.contains(['=', '\0'])) {
        object.refuse("name", "must not have '=' in it");
    }
    if value.as_ref().is_some_and(|value| value.contains('\0')) {
        object.refuse("value", "must not have a zero byte in it");
    }
    let source = match from {
        None => EnvSource::Value(value.unwrap_or_default()),
        Some(_) if value.is_some_and(|value| !value.is_empty()) => {
            object.refuse("valueFrom", "cannot be together with value");
            return None;
        }
        Some(from) => source(&from)?,
    };
    Some(EnvVar { name: name?, source })
}

fn source(from: &Object<'_>) -> Option<EnvSource> {
    let field = from.object("fieldRef").and_then(|o| field_ref(&o, FieldUse::Variable)).map(EnvSource::Field);
    let resource = from.object("resourceFieldRef");
    let resource = resource.and_then(|o| quantity::resource_ref(&o)).map(EnvSource::Resource);
    let config_map = from.object("configMapKeyRef").and_then(|o| key_ref(&o)).map(EnvSource::ConfigMap);
    let secret = from.object("secretKeyRef").and_then(|o| key_ref(&o)).map(EnvSource::Secret);
    let names = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    from.unsupported(&["fileKeyRef"]);
    from.finish();
    let sources = names.iter().filter(|name| from.has(name)).count();
    if sources != 1 {
        from.refuse("", format_args!("needs exactly one of {}", names[..4].join(", ")));
        return None;
    }
    field.or(resource).or(config_map).or(secret)
}

fn key_ref(object: &Object<'_>) -> Option<KeyRef> {
    let (name, key) = (object.required("name"), object.required("key"));
    let optional = object.bool("optional").unwrap_or(false);
    object.finish();
    Some(KeyRef { name: name?, key: key?, optional })
}

/// Reads a `fieldRef`.
pub fn field_ref(object: &Object<'_>, used: FieldUse) -> Option<FieldPath> {
    if let Some(version) = object.string("apiVersion").filter(|version| version != "v1") {
        object.refuse("apiVersion", format_args!("{version:?}: only v1 is known"));
    }
    let path = object.required("fieldPath");
    object.finish();
    let path = path?;
    let found = field_path(&path).filter(|found| match found {
        FieldPath::Labels | FieldPath::Annotations => used == FieldUse::File,
        FieldPath::Name
        | FieldPath::Namespace
        | FieldPath::Uid
        | FieldPath::Label(_)
        | FieldPath::Annotation(_) => true,
        _ => used == FieldUse::Variable,
    });
    if found.is_none() {
        object.refuse("fieldPath", format_args!("{path:?} is no field that can be used here"));
    }
    found
}

fn field_path(path: &str) -> Option<FieldPath> {
    let key = |prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(key.to_owned()).filter(|key| !key.is_empty())
    };
    Some(match path {
        "metadata.name" => FieldPath::Name,
        "metadata.namespace" => FieldPath::Namespace,
        "metadata.uid" => FieldPath::Uid,
        "metadata.labels" => FieldPath::Labels,
        "metadata.annotations" => FieldPath::Annotations,
        "spec.nodeName" => FieldPath::NodeName,
        "spec.serviceAccountName" => FieldPath::ServiceAccount,
        "status.hostIP" => FieldPath::HostIp,
        "status.hostIPs" => FieldPath::HostIps,
        "status.podIP" => FieldPath::PodIp,
        "status.podIPs" => FieldPath::PodIps,
        _ => match (key("metadata.labels"), key("metadata.annotations")) {
            (Some(key), _) => FieldPath::Label(key),
            (_, Some(key)) => FieldPath::Annotation(key),
            _ => return None,
        },
    })
}

/// Reads `envFrom`.
pub fn read_env_from(container: &Object<'_>) -> Vec<EnvFrom> {
    container.objects("envFrom").iter().filter_map(env_from).collect()
}

fn env_from(object: &Object<'_>) -> Option<EnvFrom> {
    let prefix = object.string("prefix").unwrap_or_default();
    if prefix.contains(['=', '\0']) {
        object.refuse("prefix", "must not have '=' in it");
    }
    let read = |field: &str, is_secret| {
        let reference = object.object(field)?;
        let name = reference.required("name");
        let optional = reference.bool("optional").unwrap_or(false);
        reference.finish();
        Some(EnvFrom { prefix: prefix.clone(), name: name?, is_secret, optional })
    };
    let (config_map, secret) = (read("configMapRef", false), read("secretRef", true));
    object.finish();
    if object.has("configMapRef") == object.has("secretRef") {
        object.refuse("", "needs one of configMapRef and secretRef");
        return None;
    }
    config_map.or(secret)
}
