//! Converts the proto ContainerConfig to [`ContainerConfig`].

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path, PathBuf};

use crisp_proto::runtime::v1 as proto;

use super::{
    ConvertError, absolute, image, invalid, mounts, no_nul, not_empty, required, resources, security, texts,
    unsupported,
};
use crate::cdi::{self, DeviceName};
use crate::container::config::ContainerConfig;
use crate::spec::copy_up::{self, COPY_UP};
use crate::spec::ulimits::{self, ULIMITS};

/// # Errors
/// [`ConvertError`] naming the field.
pub fn config(config: proto::ContainerConfig) -> Result<ContainerConfig, ConvertError> {
    if config.windows.is_some() {
        return Err(unsupported("config.windows", " on Linux"));
    }
    let metadata = required("config.metadata", config.metadata)?;
    let linux = config.linux.unwrap_or_default();
    let security = security::security(linux.security_context)?;
    ulimits::of_annotations(&config.annotations)
        .map_err(|why| invalid(format!("config.annotations[{ULIMITS:?}]"), why))?;
    copy_up::of_annotations(&config.annotations)
        .map_err(|why| invalid(format!("config.annotations[{COPY_UP:?}]"), why))?;
    let cdi_devices = cdi_devices(&config.cdi_devices, &config.annotations)?;
    Ok(ContainerConfig {
        cdi_devices,
        name: not_empty("config.metadata.name", metadata.name)?,
        attempt: metadata.attempt,
        image: image::request("config.image", required("config.image", config.image)?)?,
        command: strings("config.command", config.command)?,
        args: strings("config.args", config.args)?,
        working_dir: match config.working_dir.as_str() {
            "" => None,
            _ => Some(absolute("config.working_dir", config.working_dir)?),
        },
        envs: envs(config.envs)?,
        mounts: mounts::mounts(config.mounts)?,
        devices: mounts::devices(config.devices)?,
        labels: texts("config.labels", config.labels)?,
        annotations: texts("config.annotations", config.annotations)?,
        log_path: log_path(&config.log_path)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        stop_signal: super::signal::from_proto("config.stop_signal", config.stop_signal)?,
        resources: resources::resources("config.linux.resources", linux.resources.unwrap_or_default())?,
        security,
    })
}

/// The devices of the field, then those of annotations; each counts once.
fn cdi_devices(
    field: &[proto::CdiDevice],
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<DeviceName>, ConvertError> {
    let mut names: Vec<DeviceName> = Vec::new();
    for (index, device) in field.iter().enumerate() {
        let name = DeviceName::parse(&device.name);
        names.push(
            name.map_err(|error| invalid(format!("config.CDI_devices[{index}].name"), error.to_string()))?,
        );
    }
    let more = cdi::of_annotations(annotations);
    names.extend(
        more.map_err(|(key, error)| invalid(format!("config.annotations[{key:?}]"), error.to_string()))?,
    );
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

/// Checks the words of a command.
///
/// # Errors
/// [`ConvertError`] naming the word that holds a NUL byte.
pub fn strings(field: &str, values: Vec<String>) -> Result<Vec<String>, ConvertError> {
    values.into_iter().enumerate().map(|(i, v)| no_nul(&format!("{field}[{i}]"), v)).collect()
}

fn envs(values: Vec<proto::KeyValue>) -> Result<Vec<(String, String)>, ConvertError> {
    let one = |(i, pair): (usize, proto::KeyValue)| {
        let at = |part: &str| format!("config.envs[{i}].{part}");
        let key = not_empty(&at("key"), pair.key)?;
        if key.contains('=') {
            return Err(invalid(at("key"), format!("{key:?} holds an equals sign")));
        }
        // The value is not shown: it may be a secret.
        let value = String::from_utf8(pair.value).map_err(|_| {
            invalid(at("value"), format!("the value of {key:?} is not UTF-8, as an OCI spec's must be"))
        })?;
        Ok((key, no_nul(&at("value"), value)?))
    };
    values.into_iter().enumerate().map(one).collect()
}

/// A path relative to the pod's log folder that cannot leave it.
fn log_path(text: &str) -> Result<Option<PathBuf>, ConvertError> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !text.contains('\0') && !text.ends_with('/') {
        Ok(Some(path.to_owned()))
    } else {
        Err(invalid("config.log_path", format!("{text:?} is not a path below the pod's log_directory")))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn minimal() -> proto::ContainerConfig {
        proto::ContainerConfig {
            metadata: Some(proto::ContainerMetadata { name: "app".into(), attempt: 1 }),
            image: Some(proto::ImageSpec { image: "busybox".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut proto::ContainerConfig)) -> String {
        let mut message = minimal();
        change(&mut message);
        config(message).unwrap_err().to_string()
    }

    #[test]
    fn a_minimal_container() {
        let converted = config(minimal()).unwrap();
        assert_eq!((converted.name.as_str(), converted.attempt), ("app", 1));
        assert_eq!(converted.log_path, None);
    }

    #[test]
    fn errors_name_the_field() {
        let env = |key: &str, value: &[u8]| proto::KeyValue { key: key.into(), value: value.into() };
        let cases = [
            (refused(|c| c.metadata = None), "config.metadata: missing"),
            (refused(|c| c.metadata = Some(Default::default())), "config.metadata.name: empty"),
            (refused(|c| c.image = None), "config.image: missing"),
            (refused(|c| c.image = Some(Default::default())), "config.image.image: empty"),
            (refused(|c| c.args = vec!["a".into(), "b\0".into()]), "config.args[1]: holds a NUL byte"),
            (refused(|c| c.working_dir = "x".into()), "config.working_dir: \"x\" is not an absolute path"),
            (refused(|c| c.envs = vec![env("A=B", b"x")]), "config.envs[0].key: "),
            (refused(|c| c.envs = vec![env("A", b"\xff")]), "config.envs[0].value: "),
            (
                refused(|c| c.cdi_devices = vec![Default::default()]),
                "config.CDI_devices[0].name: \"\" is not the name",
            ),
            (refused(|c| c.stop_signal = 999), "config.stop_signal: "),
            (
                refused(|c| {
                    c.annotations =
                        [("a".into(), "x".repeat(400_000)), ("b".into(), "y".repeat(300_000))].into()
                }),
                "config.annotations: 700002 bytes, more than 524288; the largest is \"a\"",
            ),
            (
                refused(|c| c.labels = [("x".repeat(600_000), String::new())].into()),
                "config.labels: 600000 bytes",
            ),
        ];
        for (message, expected) in cases {
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn log_paths_stay_below_the_pods_folder() {
        for bad in ["../x", "/x", "a/../../x", "a/", "a/./../.."] {
            assert!(refused(|c| c.log_path = bad.into()).starts_with("config.log_path"), "{bad}");
        }
        let mut message = minimal();
        message.log_path = "app/0.log".into();
        assert_eq!(config(message).unwrap().log_path, Some("app/0.log".into()));
    }

    #[test]
    fn secrets_in_env_values_are_not_printed() {
        let value = b"hunter2\xff".to_vec();
        let message = refused(|c| c.envs = vec![proto::KeyValue { key: "TOKEN".into(), value }]);
        assert!(!message.contains("hunter2"), "{message}");
    }
}
