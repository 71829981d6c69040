//! Volumes whose files come from ConfigMaps, Secrets and fields of the Pod.

use std::path::{Component, Path};

use super::env::{FieldPath, FieldUse, field_ref};
use super::quantity::{ResourceRef, resource_ref};
use super::strict_object::Object;

/// Files made before the pod starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projected {
    pub sources: Vec<Projection>,
    /// Permissions of files without their own.
    pub mode: u32,
}

/// The source of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    Keys {
        name: String,
        is_secret: bool,
        optional: bool,
        /// None: every key becomes a file of its name.
        items: Option<Vec<KeyFile>>,
    },
    Fields(Vec<FieldFile>),
}

/// A key of a ConfigMap or Secret as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
}

/// A field of the Pod as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFile {
    pub path: String,
    pub value: FieldValue,
    pub mode: Option<u32>,
}

/// The content of such a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue {
    Field(FieldPath),
    Resource(ResourceRef),
}

const USUAL_MODE: u32 = 0o644;

/// A `configMap` volume.
pub fn of_config_map(object: &Object<'_>) -> Projected {
    let sources = keys(object, "name", false).into_iter().collect();
    Projected { sources, mode: mode(object, "defaultMode").unwrap_or(USUAL_MODE) }
}

/// A `secret` volume.
pub fn of_secret(object: &Object<'_>) -> Projected {
    let sources = keys(object, "secretName", true).into_iter().collect();
    Projected { sources, mode: mode(object, "defaultMode").unwrap_or(USUAL_MODE) }
}

/// A `downwardAPI` volume.
pub fn of_downward_api(object: &Object<'_>) -> Projected {
    let sources = vec![Projection::Fields(fields(object))];
    Projected { sources, mode: mode(object, "defaultMode").unwrap_or(USUAL_MODE) }
}

/// A `projected` volume.
pub fn of_projected(object: &Object<'_>) -> Projected {
    let source = |source: &Object<'_>| {
        let read = |name, is_secret| {
            let object = source.object(name)?;
            let read = keys(&object, "name", is_secret);
            object.finish();
            read
        };
        let config_map = read("configMap", false);
        let secret = read("secret", true);
        let downward = source.object("downwardAPI").map(|object| {
            let read = Projection::Fields(fields(&object));
            object.finish();
            read
        });
        if !["configMap", "secret", "downwardAPI"].iter().any(|name| source.value(name).is_some()) {
            source.refuse("", "needs one of configMap, secret and downwardAPI");
        }
        source.unsupported(&["serviceAccountToken", "clusterTrustBundle", "podCertificate"]);
        source.finish();
        config_map.or(secret).or(downward)
    };
    let sources = object.objects("sources").iter().filter_map(source).collect();
    Projected { sources, mode: mode(object, "defaultMode").unwrap_or(USUAL_MODE) }
}

fn keys(object: &Object<'_>, name: &str, is_secret: bool) -> Option<Projection> {
    let name = object.required(name);
    let optional = object.bool("optional").unwrap_or(false);
    let item = |item: Object<'_>| {
        let (key, path, mode) = (item.required("key"), file_path(&item), mode(&item, "mode"));
        item.finish();
        Some(KeyFile { key: key?, path: path?, mode })
    };
    let items: Vec<_> = object.objects("items").into_iter().filter_map(item).collect();
    let items = Some(items).filter(|items| !items.is_empty());
    Some(Projection::Keys { name: name?, is_secret, optional, items })
}

fn fields(object: &Object<'_>) -> Vec<FieldFile> {
    let item = |item: Object<'_>| {
        let (path, mode) = (file_path(&item), mode(&item, "mode"));
        let field = item.object("fieldRef").and_then(|o| field_ref(&o, FieldUse::File));
        let resource = item.object("resourceFieldRef");
        let resource = resource.and_then(|o| {
            let read = resource_ref(&o);
            if read.as_ref().is_some_and(|read| read.container.is_none()) {
                o.refuse("containerName", "is required in a volume");
            }
            read
        });
        item.finish();
        if item.has("fieldRef") == item.has("resourceFieldRef") {
            item.refuse("", "needs one of fieldRef and resourceFieldRef");
        }
        let value = field.map(FieldValue::Field).or(resource.map(FieldValue::Resource));
        Some(FieldFile { path: path?, value: value?, mode })
    };
    object.objects("items").into_iter().filter_map(item).collect()
}

fn mode(object: &Object<'_>, name: &str) -> Option<u32> {
    let mode: u32 = object.number(name)?;
    if mode > 0o777 {
        object.refuse(name, "must be from 0 to 0777 (511)");
    }
    Some(mode)
}

fn file_path(object: &Object<'_>) -> Option<String> {
    let path = object.required("path")?;
    if !is_inside(&path) {
        object.refuse("path", format_args!("{path:?} must be relative, without \"..\""));
        return None;
    }
    Some(path)
}

/// Whether a path stays inside the folder in which it begins.
pub fn is_inside(path: &str) -> bool {
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    !path.is_empty() && !path.contains('\0') && Path::new(path).components().all(plain)
}
