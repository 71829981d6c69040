//! The fields of an image's configuration that the store reads.

use oci_spec::image::ImageConfiguration;
use serde_json::{Map, Value, json};

use super::error::StoreError;
use crate::digest::{DiffId, Digest, ImageId};
use crate::excerpt::excerpt;
use crate::manifest::Platform;

/// Larger incomplete configurations are refused: as a tree of values one takes a hundred times its length.
const MAX_INCOMPLETE: usize = 256 << 10;

/// Parses a configuration. Fields that are missing or null have the values that Go's tools give them.
pub(crate) fn parse(digest: &Digest, bytes: &[u8]) -> Result<ImageConfiguration, StoreError> {
    serde_json::from_slice(bytes)
        .or_else(|error| {
            if bytes.len() > MAX_INCOMPLETE {
                return Err(error);
            }
            serde_json::from_slice(bytes).map(completed).and_then(serde_json::from_value)
        })
        .map_err(|e| StoreError::Config { digest: digest.clone(), why: excerpt(&e.to_string()) })
}

/// Images built by hand often lack what the specification requires. Docker and containerd run them.
fn completed(mut config: Value) -> Value {
    let host = Platform::host();
    if let Value::Object(fields) = &mut config {
        for (name, own) in [("architecture", host.architecture), ("os", host.os)] {
            fill(fields, name, json!(own));
        }
        fill(fields, "rootfs", json!({}));
        if let Some(Value::Object(rootfs)) = fields.get_mut("rootfs") {
            fill(rootfs, "type", json!("layers"));
            fill(rootfs, "diff_ids", json!([]));
        }
        if let Some(Value::Object(config)) = fields.get_mut("config") {
            for (name, empty) in [("ExposedPorts", json!({})), ("Volumes", json!({})), ("Labels", json!(""))]
            {
                let Some(Value::Object(values)) = config.get_mut(name) else { continue };
                values.values_mut().filter(|value| value.is_null()).for_each(|value| *value = empty.clone());
            }
        }
    }
    config
}

fn fill(fields: &mut Map<String, Value>, name: &str, value: Value) {
    let field = fields.entry(name).or_insert(Value::Null);
    if field.is_null() {
        *field = value;
    }
}

/// The layers that a configuration lists, bottom first.
pub(super) fn layers(id: &ImageId, config: &ImageConfiguration) -> Result<Vec<DiffId>, StoreError> {
    let parse = |text: &String| {
        DiffId::parse(text)
            .map_err(|e| StoreError::Config { digest: id.digest().clone(), why: excerpt(&e.to_string()) })
    };
    config.rootfs().diff_ids().iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ImageConfiguration, StoreError> {
        parse(&Digest::sha256(json.as_bytes()), json.as_bytes())
    }

    #[test]
    fn a_large_incomplete_configuration_is_refused() {
        let history = "{},".repeat(MAX_INCOMPLETE / 3);
        let json = format!(r#"{{"history":[{history}{{}}]}}"#);
        assert!(read(&json).is_err());
    }

    #[test]
    fn missing_fields_are_those_of_this_machine() {
        let host = Platform::host();
        for json in [
            "{}",
            r#"{"architecture":null,"os":null,"rootfs":null}"#,
            r#"{"rootfs":{}}"#,
            r#"{"rootfs":{"type":null,"diff_ids":null}}"#,
        ] {
            let config = read(json).unwrap();
            assert_eq!(config.architecture().to_string(), host.architecture, "{json}");
            assert_eq!(config.os().to_string(), "linux", "{json}");
            assert_eq!((config.rootfs().typ().as_str(), config.rootfs().diff_ids().len()), ("layers", 0));
        }
    }

    #[test]
    fn null_in_a_map_is_empty() {
        let json = r#"{"config":{"ExposedPorts":{"80/tcp":null},"Volumes":{"/v":null},"Labels":{"a":null}}}"#;
        let config = read(json).unwrap().config().clone().unwrap();
        assert_eq!(config.exposed_ports().clone().unwrap(), ["80/tcp"]);
        assert_eq!(config.volumes().clone().unwrap(), ["/v"]);
        assert_eq!(config.labels().clone().unwrap()["a"], "");
    }

    #[test]
    fn a_field_of_another_type_is_refused() {
        for json in ["[]", r#"{"architecture":1}"#, r#"{"config":{"Env":"A=1"}}"#, r#"{"rootfs":[]}"#] {
            assert!(matches!(read(json), Err(StoreError::Config { .. })), "{json}");
        }
    }
}
