//! The choice of the server that a command talks to. It uses the same sources as crictl.
//!
//! ```text
//!   --listen > CONTAINER_RUNTIME_ENDPOINT > listen of crisp's configuration > the default, where a server is
//!            > runtime-endpoint of crictl's > the default
//! ```
//!
//! Destructive commands use the same choice: a file of another tool does not take precedence over a running
//! Crisp.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde::Deserialize;

use crate::config::{ListenAddress, Setting, Settings, Source};

const VARIABLE: &str = "CONTAINER_RUNTIME_ENDPOINT";
/// Where crictl has its configuration; the variable names another file.
const CRICTL_FILE: (&str, &str) = ("CRI_CONFIG_FILE", "/etc/crictl.yaml");

/// The server's socket.
///
/// # Errors
/// The variable or the file has another form.
pub fn choose(settings: &Settings) -> anyhow::Result<ListenAddress> {
    let file = std::env::var_os(CRICTL_FILE.0).map_or_else(|| CRICTL_FILE.1.into(), PathBuf::from);
    chosen(&settings.listen, std::env::var(VARIABLE).ok().as_deref(), &file)
}

fn chosen(
    listen: &Setting<ListenAddress>,
    variable: Option<&str>,
    crictl: &Path,
) -> anyhow::Result<ListenAddress> {
    let parse = |text: &str| ListenAddress::parse(text).map_err(|error| anyhow!(error));
    match (&listen.source, variable.filter(|text| !text.is_empty())) {
        (Source::Flag, _) => Ok(listen.value.clone()),
        (_, Some(text)) => parse(text).context(VARIABLE),
        (Source::File(_), None) => Ok(listen.value.clone()),
        (Source::Default, None) if listen.value.path().exists() => Ok(listen.value.clone()),
        (Source::Default, None) => match of_crictl(crictl)? {
            Some(text) => parse(&text).with_context(|| crictl.display().to_string()),
            None => Ok(listen.value.clone()),
        },
    }
}

#[derive(Deserialize)]
struct Crictl {
    #[serde(rename = "runtime-endpoint")]
    runtime_endpoint: Option<String>,
}

/// Returns None when there is no such file, or it names no endpoint.
fn of_crictl(path: &Path) -> anyhow::Result<Option<String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let crictl: Option<Crictl> =
        serde_saphyr::from_str(&text).with_context(|| format!("{}: not crictl's form", path.display()))?;
    Ok(crictl.and_then(|crictl| crictl.runtime_endpoint).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_variable_and_that_before_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("crictl.yaml");
        std::fs::write(&file, "runtime-endpoint: unix:///crictl.sock\ntimeout: 10\ndebug: false\n").unwrap();
        let found = |source: Source, variable: Option<&str>, file: &Path| {
            let listen = Setting { value: ListenAddress::parse("/own.sock").unwrap(), source };
            chosen(&listen, variable, file).map(|address| address.to_string())
        };
        let own = "unix:///own.sock";
        assert_eq!(found(Source::Flag, Some("unix:///v.sock"), &file).unwrap(), own);
        assert_eq!(found(Source::File("f".into()), Some("unix:///v.sock"), &file).unwrap(), "unix:///v.sock");
        assert_eq!(found(Source::File("f".into()), None, &file).unwrap(), own);
        assert_eq!(found(Source::Default, None, &file).unwrap(), "unix:///crictl.sock");
        let served = Setting { value: ListenAddress::parse("/proc/self").unwrap(), source: Source::Default };
        assert_eq!(chosen(&served, None, &file).unwrap().to_string(), "unix:///proc/self");
        assert_eq!(found(Source::Default, Some(""), Path::new("/nonexistent")).unwrap(), own);
        let refused = found(Source::Default, Some("tcp://1.2.3.4"), &file).unwrap_err();
        assert!(format!("{refused:#}").contains(VARIABLE), "{refused:#}");
        std::fs::write(&file, "").unwrap();
        assert_eq!(found(Source::Default, None, &file).unwrap(), own);
        std::fs::write(&file, "- [").unwrap();
        assert!(found(Source::Default, None, &file).is_err());
    }
}
