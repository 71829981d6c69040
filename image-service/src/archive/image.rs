//! Makes configurations and manifests of local images.

use crisp_operation::clock;
use serde_json::{Map, Value, json};

use super::ArchiveError;
use crate::digest::Digest;
use crate::manifest::Platform;
use crate::store::Document;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The differences between a new image and the one below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Instructions of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR.
    pub instructions: Vec<String>,
    /// Author of the image.
    pub author: String,
    /// Message for the history.
    pub comment: String,
}

/// The configuration of an image with one more layer. `before` is that of the image below, if there is one.
pub(super) fn with_layer(
    before: Option<&[u8]>,
    layer: &Digest,
    changes: &Changes,
    created_by: &str,
) -> Result<Document, ArchiveError> {
    let mut config: Value = match before {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|error| ArchiveError::Document {
            name: "the image's configuration".to_owned(),
            why: error.to_string(),
        })?,
        None => {
            let host = Platform::host();
            json!({ "architecture": host.architecture, "os": host.os, "rootfs": { "type": "layers", "diff_ids": [] } })
        }
    };
    let created = rfc3339(clock::now())?;
    let line = json!({
        "created": created, "created_by": created_by, "author": changes.author, "comment": changes.comment,
    });
    let fields = object(&mut config, "it")?;
    push(entry(fields, "history"), line);
    push(entry(object(entry(fields, "rootfs"), "rootfs")?, "diff_ids"), json!(layer.to_string()));
    fields.insert("created".to_owned(), json!(created));
    if !changes.author.is_empty() {
        fields.insert("author".to_owned(), json!(changes.author));
    }
    for instruction in &changes.instructions {
        apply(entry(fields, "config"), instruction)?;
    }
    Ok(document(&config))
}

/// The fields of an object; null becomes an empty object. A configuration from a registry can have any type
/// there.
fn object<'a>(value: &'a mut Value, name: &str) -> Result<&'a mut Map<String, Value>, ArchiveError> {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(ArchiveError::Document {
            name: "the image's configuration".to_owned(),
            why: format!("{name} is not an object"),
        }),
    }
}

/// The value of a field, null where there is none.
fn entry<'a>(fields: &'a mut Map<String, Value>, name: &str) -> &'a mut Value {
    fields.entry(name).or_insert(Value::Null)
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

/// Applies one instruction of a Dockerfile.
fn apply(config: &mut Value, instruction: &str) -> Result<(), ArchiveError> {
    let wrong = || ArchiveError::Change(instruction.to_owned());
    let (name, rest) = instruction.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
    let rest = rest.trim();
    let config = object(config, "config")?;
    match name.to_ascii_uppercase().as_str() {
        "CMD" => drop(config.insert("Cmd".to_owned(), command(rest).ok_or_else(wrong)?)),
        "ENTRYPOINT" => drop(config.insert("Entrypoint".to_owned(), command(rest).ok_or_else(wrong)?)),
        "ENV" => {
            let (key, value) = pair(rest).ok_or_else(wrong)?;
            set_variable(entry(config, "Env"), &key, &value);
        }
        "LABEL" => {
            let (key, value) = pair(rest).ok_or_else(wrong)?;
            object(entry(config, "Labels"), "config.Labels")?.insert(key, json!(value));
        }
        "EXPOSE" => {
            let ports = object(entry(config, "ExposedPorts"), "config.ExposedPorts")?;
            let port = |text: &str| if text.contains('/') { text.to_owned() } else { format!("{text}/tcp") };
            ports.extend(rest.split_whitespace().map(|text| (port(text), json!({}))));
        }
        "VOLUME" => {
            let paths: Vec<String> = match command(rest).ok_or_else(wrong)? {
                // The shell form of VOLUME is the path itself.
                Value::Array(paths) if rest.starts_with('[') => {
                    paths.iter().filter_map(Value::as_str).map(str::to_owned).collect()
                }
                _ => rest.split_whitespace().map(str::to_owned).collect(),
            };
            let volumes = object(entry(config, "Volumes"), "config.Volumes")?;
            volumes.extend(paths.into_iter().map(|path| (path, json!({}))));
        }
        "USER" => drop(config.insert("User".to_owned(), json!(rest))),
        "WORKDIR" => drop(config.insert("WorkingDir".to_owned(), json!(rest))),
        "STOPSIGNAL" => drop(config.insert("StopSignal".to_owned(), json!(rest))),
        _ => return Err(wrong()),
    }
    Ok(())
}

/// A list of strings in JSON, or a command line for the shell.
fn command(rest: &str) -> Option<Value> {
    if rest.starts_with('[') {
        let words: Vec<String> = serde_json::from_str(rest).ok()?;
        return Some(json!(words));
    }
    Some(json!(["/bin/sh", "-c", rest]))
}

/// `KEY=VALUE` or `KEY VALUE`; the value may be quoted.
fn pair(rest: &str) -> Option<(String, String)> {
    let (key, value) = rest.split_once('=').or_else(|| rest.split_once(char::is_whitespace))?;
    let value = value.trim();
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!key.is_empty() && !key.contains(char::is_whitespace)).then(|| (key.to_owned(), bare.to_owned()))
}

fn set_variable(list: &mut Value, key: &str, value: &str) {
    if !list.is_array() {
        *list = json!([]);
    }
    let Value::Array(all) = list else { return };
    let start = format!("{key}=");
    all.retain(|item| !item.as_str().is_some_and(|text| text.starts_with(&start)));
    all.push(json!(format!("{start}{value}")));
}

/// The same configuration with other digests of layers; the same bytes if the digests are equal.
pub(super) fn with_diff_ids(bytes: &[u8], diff_ids: &[Digest]) -> Result<Document, ArchiveError> {
    let broken = |why: String| ArchiveError::Document { name: "the image's configuration".to_owned(), why };
    let mut config: Value = serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
    let wanted = json!(diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>());
    let rootfs = object(entry(object(&mut config, "it")?, "rootfs"), "rootfs")?;
    if rootfs.get("diff_ids") == Some(&wanted) {
        return Ok(Document { digest: Digest::sha256(bytes), bytes: bytes.to_vec() });
    }
    rootfs.insert("diff_ids".to_owned(), wanted);
    Ok(document(&config))
}

/// A manifest of plain layers: digest and size of each, bottom first.
pub(super) fn manifest(config: &Document, layers: &[(Digest, u64)]) -> Document {
    let layer = |(digest, size): &(Digest, u64)| json!({ "mediaType": LAYER, "digest": digest.to_string(), "size": size });
    document(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config.digest.to_string(), "size": config.bytes.len() },
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    }))
}

pub(super) fn document(value: &Value) -> Document {
    let bytes = value.to_string().into_bytes();
    Document { digest: Digest::sha256(&bytes), bytes }
}

/// Nanoseconds since 1970 as a time in UTC, with whole seconds.
fn rfc3339(ns: i64) -> Result<String, ArchiveError> {
    let time = jiff::Timestamp::from_second(ns.div_euclid(1_000_000_000));
    Ok(time
        .map_err(|error| ArchiveError::Document { name: "the time".to_owned(), why: error.to_string() })?
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (1_795_253_465, "2026-11-21T09:31:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000_000 + 999).unwrap(), text);
        }
    }

    #[test]
    fn instructions_change_the_configuration() {
        let mut config = json!({"Env": ["A=1", "PATH=/bin"]});
        for line in [
            "CMD [\"sh\", \"-c\", \"x\"]",
            "entrypoint run me",
            "ENV A=\"2 3\"",
            "LABEL a.b=c",
            "EXPOSE 80 53/udp",
            "VOLUME /data",
            "USER 1000",
            "WORKDIR /w",
        ] {
            apply(&mut config, line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert_eq!(
            config,
            json!({
                "Env": ["PATH=/bin", "A=2 3"], "Cmd": ["sh", "-c", "x"],
                "Entrypoint": ["/bin/sh", "-c", "run me"], "Labels": {"a.b": "c"},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/data": {}}, "User": "1000",
                "WorkingDir": "/w",
            })
        );
        for line in ["FROM x", "CMD", "CMD [1]", "ENV A", ""] {
            assert!(apply(&mut config, line).is_err(), "{line}");
        }
    }

    /// Parsers accept lists for structures; the configuration may have been pulled by an earlier release.
    #[test]
    fn a_configuration_that_has_lists_for_objects_is_an_error() {
        let lines = ["CMD x", "ENV A=1", "LABEL a=b", "EXPOSE 80", "VOLUME /v", "USER 1", "WORKDIR /w"];
        let configs = [
            r#"{"config":[null,null,null,null,null,null,null,null,null]}"#,
            r#"{"config":"x"}"#,
            r#"{"config":7}"#,
            r#"{"config":{"Labels":[],"ExposedPorts":[],"Volumes":[],"Env":7}}"#,
            r#"{"rootfs":["layers",[]]}"#,
            r#"{"rootfs":7,"history":"x"}"#,
            "[1]",
            "7",
        ];
        let layer = Digest::sha256(b"x");
        for (config, line) in configs.iter().flat_map(|config| lines.map(|line| (config, line))) {
            let changes = Changes { instructions: vec![line.to_owned()], ..Changes::default() };
            let made = with_layer(Some(config.as_bytes()), &layer, &changes, "test");
            let overwritten = ["CMD x", "ENV A=1", "USER 1", "WORKDIR /w"];
            let is_fine = config.contains("Labels") && overwritten.contains(&line);
            assert_eq!(made.is_ok(), is_fine, "{config}: {line}");
            if let Err(error) = made {
                assert!(error.to_string().contains("is not an object"), "{config}: {line}: {error}");
            }
        }
        assert!(with_diff_ids(b"[1]", &[layer]).is_err());
    }

    #[test]
    fn equal_layers_leave_the_configuration_as_it_is() {
        let layer = Digest::sha256(b"x");
        let bytes = format!(r#"{{ "rootfs": {{"diff_ids": ["{layer}"]}}, "os":"linux" }}"#).into_bytes();
        let same = with_diff_ids(&bytes, std::slice::from_ref(&layer)).unwrap();
        assert_eq!(same.bytes, bytes);
        let other = with_diff_ids(&bytes, &[Digest::sha256(b"y")]).unwrap();
        assert_ne!(other.digest, same.digest);
    }
}
