//! Messages as JSON, every field of them, in the canonical form of protobuf with numbers as numbers.
//!
//! The fields come from the contract's descriptors: a new field of the contract is shown without a change
//! here.

use std::sync::OnceLock;

use anyhow::Context as _;
use crisp_proto::DESCRIPTORS;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value};

/// Prints a value with indentation and a newline.
pub fn print(value: &Value) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// A message as JSON. Fields without a value are shown with their default, absent messages as null.
///
/// # Errors
/// A message that is not of the contract.
pub fn message<M: Message + Name>(message: &M) -> anyhow::Result<Value> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).ok());
    let descriptor = pool.as_ref().and_then(|pool| pool.get_message_by_name(&M::full_name()));
    let descriptor = descriptor.with_context(|| format!("{} is not in the contract", M::full_name()))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message)?;
    let options = SerializeOptions::new().skip_default_fields(false).stringify_64_bit_integers(false);
    Ok(dynamic.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// A list of messages.
///
/// # Errors
/// As [`message`].
pub fn list<'a, M: Message + Name + 'a>(messages: impl IntoIterator<Item = &'a M>) -> anyhow::Result<Value> {
    messages.into_iter().map(message).collect()
}

/// The free-form part of a verbose response: values that are JSON are shown as JSON.
pub fn info<'a>(info: impl IntoIterator<Item = (&'a String, &'a String)>) -> Value {
    let value = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
    Value::Object(info.into_iter().map(|(key, text)| (key.clone(), value(text))).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use crisp_proto::runtime::v1::{ContainerState, ContainerStatus, ImageSpec, Mount};

    use super::*;

    #[test]
    fn every_field_of_a_message_is_shown() {
        let status = ContainerStatus {
            id: "abc".into(),
            created_at: 1_700_000_000_000_000_001,
            state: ContainerState::ContainerRunning.into(),
            image: Some(ImageSpec { image: "busybox".into(), ..ImageSpec::default() }),
            mounts: vec![Mount { container_path: "/data".into(), ..Mount::default() }],
            ..ContainerStatus::default()
        };
        let json = message(&status).unwrap();
        assert_eq!(json["createdAt"], 1_700_000_000_000_000_001_i64);
        assert_eq!(json["state"], "CONTAINER_RUNNING");
        assert_eq!(json["image"]["image"], "busybox");
        assert_eq!(json["mounts"][0]["containerPath"], "/data");
        let fields = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let fields = fields.get_message_by_name("runtime.v1.ContainerStatus").unwrap();
        for field in fields.fields().filter(|field| !field.supports_presence()) {
            assert!(!json[field.json_name()].is_null(), "{}", field.name());
        }
    }

    #[test]
    fn the_verbose_part_is_json_where_it_can_be() {
        let parts = [("pid".to_owned(), "7".to_owned()), ("note".to_owned(), "as it is".to_owned())];
        let info = info(parts.iter().map(|(key, value)| (key, value)));
        assert_eq!(info.to_string(), r#"{"note":"as it is","pid":7}"#);
    }
}
