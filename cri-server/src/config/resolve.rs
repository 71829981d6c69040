//! Flags, file and defaults into [`Settings`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crisp_image_service::Limits;
use crisp_runtime_service::cdi::SPEC_DIRS;
use crisp_sandbox::network::InvalidPool;

use super::{CgroupDriver, DEFAULT_FILE, ListenAddress, NetworkKind, RawSettings, Setting, Settings, Source};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--config` names a file that cannot be read.
    #[error("cannot read configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of a wrong type.
    #[error("configuration {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what, in several lines.
        message: String,
    },
    /// A value that is not allowed.
    #[error("setting {name} ({from}): {message}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// Where it was set.
        from: Source,
        /// What is wrong.
        message: String,
    },
}

impl Settings {
    /// All settings, from the flags, from the file named by `config` or else the default one if it is
    /// there, and from the defaults.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn resolve(flags: RawSettings, config: Option<&Path>) -> Result<Self, ConfigError> {
        let (file, path) = read_file(config)?;
        Layers { path }.settings(flags, file)
    }

    /// The same for `crisp run`: without what the file says for the machine's server alone.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn resolve_for_run(flags: RawSettings, config: Option<&Path>) -> Result<Self, ConfigError> {
        let (file, path) = read_file(config)?;
        Layers { path }.settings(flags, file.without_what_is_the_servers())
    }
}

fn read_file(config: Option<&Path>) -> Result<(RawSettings, &Path), ConfigError> {
    let default = Path::new(DEFAULT_FILE);
    match config {
        Some(path) => Ok((read(path)?, path)),
        None if default.exists() => Ok((read(default)?, default)),
        None => Ok((RawSettings::default(), default)),
    }
}

fn read(path: &Path) -> Result<RawSettings, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    toml::from_str(&text).map_err(|e| ConfigError::Parse { path: path.into(), message: e.to_string() })
}

/// Puts flags over the file and the file over the defaults.
struct Layers<'a> {
    path: &'a Path,
}

impl Layers<'_> {
    fn settings(&self, flags: RawSettings, file: RawSettings) -> Result<Settings, ConfigError> {
        let folder = |name, flag, file, default: &str| {
            check(name, self.pick(flag, file, PathBuf::from(default)), absolute)
        };
        let limits = Limits::default();
        Ok(Settings {
            root: folder("root", flags.root, file.root, "/var/lib/crisp")?,
            state: folder("state", flags.state, file.state, "/run/crisp")?,
            registry_config_dir: folder(
                "registry-config-dir",
                flags.registry_config_dir,
                file.registry_config_dir,
                "/etc/crisp/certs.d",
            )?,
            max_layer_bytes: self.pick(flags.max_layer_bytes, file.max_layer_bytes, limits.bytes),
            max_layer_files: self.pick(flags.max_layer_files, file.max_layer_files, limits.inodes),
            image_check_interval: check(
                "image-check-interval",
                self.pick(flags.image_check_interval, file.image_check_interval, "off".to_owned()),
                interval_or_off,
            )?,
            network: self.pick(flags.network, file.network, NetworkKind::Auto),
            cni_conf_dir: folder("cni-conf-dir", flags.cni_conf_dir, file.cni_conf_dir, "/etc/cni/net.d")?,
            cni_bin_dir: check(
                "cni-bin-dir",
                self.pick(
                    flags.cni_bin_dir,
                    file.cni_bin_dir,
                    vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
                ),
                |dirs| dirs.into_iter().map(absolute).collect(),
            )?,
            cdi_spec_dir: check(
                "cdi-spec-dir",
                self.pick(flags.cdi_spec_dir, file.cdi_spec_dir, SPEC_DIRS.map(PathBuf::from).into()),
                |dirs| dirs.into_iter().map(absolute).collect(),
            )?,
            cni_conf_template: check(
                "cni-conf-template",
                self.pick(flags.cni_conf_template, file.cni_conf_template, OFF.to_owned()),
                file_or_off,
            )?,
            cni_timeout: check(
                "cni-timeout",
                self.pick(flags.cni_timeout, file.cni_timeout, 30),
                |seconds| match seconds {
                    0 => Err("0 leaves plugins no time: at least 1".to_owned()),
                    seconds => Ok(Duration::from_secs(seconds.into())),
                },
            )?,
            cni_check_interval: check(
                "cni-check-interval",
                self.pick(flags.cni_check_interval, file.cni_check_interval, OFF.to_owned()),
                interval_or_off,
            )?,
            cni_gc: self.pick(flags.cni_gc, file.cni_gc, false),
            pod_cidr: check(
                "pod-cidr",
                self.pick(flags.pod_cidr, file.pod_cidr, "auto".to_owned()),
                |text| text.parse().map_err(|e: InvalidPool| e.to_string()),
            )?,
            pod_cidr_v6: check(
                "pod-cidr-v6",
                self.pick(flags.pod_cidr_v6, file.pod_cidr_v6, "auto".to_owned()),
                |text| text.parse().map_err(|e: InvalidPool| e.to_string()),
            )?,
            bridge_name: self.pick(flags.bridge_name, file.bridge_name, "crisp0".to_owned()),
            listen: check(
                "listen",
                self.pick(flags.listen, file.listen, "unix:///run/crisp/crisp.sock".to_owned()),
                |text| ListenAddress::parse(&text),
            )?,
            stream_listen: check(
                "stream-listen",
                self.pick(flags.stream_listen, file.stream_listen, "127.0.0.1:0".to_owned()),
                |text| address(&text),
            )?,
            stream_cert: check(
                "stream-cert",
                self.pick(flags.stream_cert, file.stream_cert, OFF.to_owned()),
                file_or_off,
            )?,
            stream_key: check(
                "stream-key",
                self.pick(flags.stream_key, file.stream_key, OFF.to_owned()),
                file_or_off,
            )?,
            exec_grace: check("exec-grace", self.pick(flags.exec_grace, file.exec_grace, 10), |seconds| {
                Ok(Duration::from_secs(seconds.into()))
            })?,
            metrics_listen: check(
                "metrics-listen",
                self.pick(flags.metrics_listen, file.metrics_listen, "off".to_owned()),
                |text| if text == "off" { Ok(None) } else { address(&text).map(Some) },
            )?,
            cgroup_driver: self.pick(flags.cgroup_driver, file.cgroup_driver, CgroupDriver::Auto),
            log_level: check(
                "log-level",
                self.pick(flags.log_level, file.log_level, "info".to_owned()),
                log_level,
            )?,
        })
    }

    fn pick<T>(&self, flag: Option<T>, file: Option<T>, default: T) -> Setting<T> {
        match (flag, file) {
            (Some(value), _) => Setting { value, source: Source::Flag },
            (None, Some(value)) => Setting { value, source: Source::File(self.path.into()) },
            (None, None) => Setting { value: default, source: Source::Default },
        }
    }
}

/// Turns the raw value into the one that is used, or says where the wrong one was set.
fn check<T, U>(
    name: &'static str,
    given: Setting<T>,
    turn: impl FnOnce(T) -> Result<U, String>,
) -> Result<Setting<U>, ConfigError> {
    let source = given.source;
    match turn(given.value) {
        Ok(value) => Ok(Setting { value, source }),
        Err(message) => Err(ConfigError::Invalid { name, from: source, message }),
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    let clean = path.is_absolute() && !path.components().any(|c| c == std::path::Component::ParentDir);
    if clean { Ok(path) } else { Err(format!("{} is not an absolute path without \"..\"", path.display())) }
}

/// What is not set, where a file is expected.
const OFF: &str = "off";

fn file_or_off(text: String) -> Result<Option<PathBuf>, String> {
    if text == OFF { Ok(None) } else { absolute(text.into()).map(Some) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an address: expected IP:PORT, for example 127.0.0.1:9464"))
}

fn interval_or_off(text: String) -> Result<Option<Duration>, String> {
    if text == OFF { Ok(None) } else { interval(&text).map(Some) }
}

fn interval(text: &str) -> Result<Duration, String> {
    let whole = crisp_operation::parse_duration(text)
        .filter(|interval| interval.as_secs() > 0 && interval.subsec_nanos() == 0);
    whole.ok_or_else(|| {
        format!("{text:?} is not a time of whole seconds, for example 24h or 90m, nor \"off\"")
    })
}

fn log_level(text: String) -> Result<String, String> {
    // The filter takes any word for the name of a crate: a mistyped level would silently log nothing.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let known = |part: &str| part.contains('=') || levels.contains(&part);
    if text.split(',').all(|part| known(part.trim())) && text.parse::<tracing_subscriber::EnvFilter>().is_ok()
    {
        return Ok(text);
    }
    Err(format!(
        "{text:?} is not a log level: one of {}, or crate=level, with commas between",
        levels.join(", ")
    ))
}
