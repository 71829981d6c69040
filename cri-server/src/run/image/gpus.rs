//! `--gpus`: devices by their CDI names, which the server looks up.

use anyhow::{Context as _, bail};

/// The kind of the devices, as NVIDIA's tool for CDI names them.
const KIND: &str = "nvidia.com/gpu";
/// More is a mistake.
const MOST: u32 = 64;

/// The CDI names for `all`, a number, or `device=NAME,...`.
///
/// # Errors
/// The value is not valid; the error names the option.
pub fn gpus(text: &str) -> anyhow::Result<Vec<String>> {
    read(text).with_context(|| format!("--gpus {text:?}"))
}

fn read(text: &str) -> anyhow::Result<Vec<String>> {
    // docker needs quotes around a value with commas.
    let text = text.trim_matches('"');
    let mut devices: Vec<String> = Vec::new();
    let mut is_list = false;
    for field in text.split(',').map(|field| field.trim_matches('"')) {
        match field.split_once('=') {
            Some(("device", name)) => {
                is_list = true;
                devices.push(device(name)?);
            }
            Some(("count", count)) => devices.extend(counted(count)?),
            Some(("driver", "nvidia" | "cdi")) => {}
            Some(("capabilities" | "driver" | "options", _)) => {
                bail!(
                    "{field}: is not supported: a CDI device has the driver and the capabilities of its file"
                )
            }
            Some(_) => bail!("{field}: expected all, a number or device=NAME,..."),
            None if is_list => devices.push(device(field)?),
            None => devices.extend(counted(field)?),
        }
    }
    if devices.is_empty() {
        bail!("expected all, a number or device=NAME,...");
    }
    Ok(devices)
}

fn device(name: &str) -> anyhow::Result<String> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '/' || c == '=') {
        bail!("{name:?} is not the number or the name of a device");
    }
    Ok(format!("{KIND}={name}"))
}

fn counted(text: &str) -> anyhow::Result<Vec<String>> {
    match text {
        "all" | "-1" => Ok(vec![format!("{KIND}=all")]),
        text => match text.parse::<u32>() {
            Ok(count @ 1..=MOST) => Ok((0..count).map(|number| format!("{KIND}={number}")).collect()),
            _ => bail!("expected all, a number or device=NAME,..."),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_cdi() {
        for (text, names) in [
            ("all", &["all"][..]),
            ("2", &["0", "1"]),
            ("device=1", &["1"]),
            ("\"device=0,2\"", &["0", "2"]),
            ("device=GPU-3a", &["GPU-3a"]),
            ("driver=nvidia,count=1", &["0"]),
        ] {
            let wanted: Vec<_> = names.iter().map(|name| format!("nvidia.com/gpu={name}")).collect();
            assert_eq!(gpus(text).unwrap(), wanted, "{text}");
        }
        for text in ["", "0", "-2", "x", "65", "device=", "device=a b", "all,capabilities=utility", "speed=1"]
        {
            let error = format!("{:#}", gpus(text).unwrap_err());
            assert!(error.contains("--gpus"), "{error}");
        }
    }
}
