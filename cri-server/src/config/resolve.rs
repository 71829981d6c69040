//! Merges flags, files and defaults into [`Settings`].

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crisp_image_service::Limits;
use crisp_runtime_service::cdi::SPEC_DIRS;
use crisp_sandbox::network::InvalidPool;

use super::{
    CgroupDriver, DEFAULT_FILE, ListenAddress, LogFormat, NetworkKind, RawSettings, Setting, Settings, Source,
};

/// A reason why the settings cannot be used.
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
        /// The place and the error, in several lines.
        message: String,
    },
    /// A value that is not allowed.
    #[error("setting {name} ({from}): {message}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// The place where it was set.
        from: Source,
        /// The reason why it is not allowed.
        message: String,
    },
}

impl Settings {
    /// Merges the flags, the files and the defaults. The files are the one that `config` names, or the
    /// default one if it exists, and those in the folder `conf.d` beside it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn resolve(flags: RawSettings, config: Option<&Path>) -> Result<Self, ConfigError> {
        let settings = Layers { flags, files: read_files(config)? }.settings()?;
        let rate = &settings.tracing_sampling_rate_per_million;
        if rate.value > 0 && settings.tracing_endpoint.value.is_none() {
            let message = "there is no tracing-endpoint, to which traces would be sent".to_owned();
            let name = "tracing-sampling-rate-per-million";
            return Err(ConfigError::Invalid { name, from: rate.source.clone(), message });
        }
        Ok(settings)
    }

    /// The same for `crisp run`: without the settings in files that are for the machine's server only.
    ///
    /// # Errors
    /// [`ConfigError`]; also for `--cni-gc`: a run knows only its own pod, so the plugins would free the
    /// addresses of all others; and for `--tracing-endpoint`.
    pub fn resolve_for_run(flags: RawSettings, config: Option<&Path>) -> Result<Self, ConfigError> {
        if flags.cni_gc == Some(true) {
            let message = "only `crisp serve` may use it: a run knows its own pod alone".to_owned();
            return Err(ConfigError::Invalid { name: "cni-gc", from: Source::Flag, message });
        }
        if flags.tracing_endpoint.as_deref().is_some_and(|endpoint| endpoint != OFF) {
            let message =
                "only `crisp serve` sends traces: they begin with the requests of clients".to_owned();
            return Err(ConfigError::Invalid { name: "tracing-endpoint", from: Source::Flag, message });
        }
        if flags.tracing_sampling_rate_per_million.is_some() {
            let message = "only `crisp serve` sends traces".to_owned();
            let name = "tracing-sampling-rate-per-million";
            return Err(ConfigError::Invalid { name, from: Source::Flag, message });
        }
        let mut files = read_files(config)?;
        for file in &mut files {
            file.raw = std::mem::take(&mut file.raw).without_what_is_the_servers();
        }
        Layers { flags, files }.settings()
    }
}

/// The main file, if there is one: a reload must not take it for absent when it has become unreadable, or is gone.
#[must_use]
pub fn present_file(config: Option<PathBuf>) -> Option<PathBuf> {
    config.or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()))
}

/// One file of the configuration.
struct File {
    path: PathBuf,
    raw: RawSettings,
}

/// The files; each overrides those before it.
fn read_files(config: Option<&Path>) -> Result<Vec<File>, ConfigError> {
    let main = config.unwrap_or(Path::new(DEFAULT_FILE));
    let mut paths = drop_ins(&main.with_file_name(DROP_INS))?;
    let failed = |source| ConfigError::Read { path: main.into(), source };
    if config.is_some() || main.try_exists().map_err(failed)? {
        paths.insert(0, main.into());
    }
    paths.into_iter().map(|path| Ok(File { raw: read(&path)?, path })).collect()
}

/// The files of the folder whose names end in `.toml`, sorted by name.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Read { path: folder.into(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<RawSettings, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    toml::from_str(&text).map_err(|e| ConfigError::Parse { path: path.into(), message: e.to_string() })
}

/// Merges the sources: flags override files, a later file overrides an earlier one, and both override the
/// defaults.
struct Layers {
    flags: RawSettings,
    files: Vec<File>,
}

impl Layers {
    fn settings(&self) -> Result<Settings, ConfigError> {
        let limits = Limits::default();
        Ok(Settings {
            root: self.folder("root", |s| &s.root, "/var/lib/crisp")?,
            state: self.folder("state", |s| &s.state, "/run/crisp")?,
            registry_config_dir: self.folder(
                "registry-config-dir",
                |s| &s.registry_config_dir,
                "/etc/crisp/certs.d",
            )?,
            max_layer_bytes: self.pick(|s| &s.max_layer_bytes, limits.bytes),
            max_layer_files: self.pick(|s| &s.max_layer_files, limits.inodes),
            image_check_interval: self.text(
                "image-check-interval",
                |s| &s.image_check_interval,
                OFF,
                interval_or_off,
            )?,
            container_log_max_size: self.pick(|s| &s.container_log_max_size, 10 << 20),
            container_log_max_files: check(
                "container-log-max-files",
                self.pick(|s| &s.container_log_max_files, 5),
                log_files,
            )?,
            network: self.pick(|s| &s.network, NetworkKind::Auto),
            cni_conf_dir: self.folder("cni-conf-dir", |s| &s.cni_conf_dir, "/etc/cni/net.d")?,
            cni_bin_dir: self.folders(
                "cni-bin-dir",
                |s| &s.cni_bin_dir,
                &["/opt/cni/bin", "/usr/lib/cni"],
            )?,
            cdi_spec_dir: self.folders("cdi-spec-dir", |s| &s.cdi_spec_dir, &SPEC_DIRS)?,
            cni_conf_template: self.text("cni-conf-template", |s| &s.cni_conf_template, OFF, file_or_off)?,
            cni_timeout: check("cni-timeout", self.pick(|s| &s.cni_timeout, 30), cni_timeout)?,
            cni_check_interval: self.text(
                "cni-check-interval",
                |s| &s.cni_check_interval,
                OFF,
                interval_or_off,
            )?,
            cni_gc: self.pick(|s| &s.cni_gc, false),
            pod_cidr: self.text("pod-cidr", |s| &s.pod_cidr, "auto", pool)?,
            pod_cidr_v6: self.text("pod-cidr-v6", |s| &s.pod_cidr_v6, "auto", pool)?,
            masquerade_except: self.text(
                "masquerade-except",
                |s| &s.masquerade_except,
                "off",
                |text| text.parse(),
            )?,
            bridge_name: self.pick(|s| &s.bridge_name, "crisp0".to_owned()),
            listen: self.text(
                "listen",
                |s| &s.listen,
                "unix:///run/crisp/crisp.sock",
                |t| ListenAddress::parse(&t),
            )?,
            listen_group: self.text("listen-group", |s| &s.listen_group, OFF, group_or_off)?,
            stream_listen: self.text(
                "stream-listen",
                |s| &s.stream_listen,
                "127.0.0.1:0",
                |t| address(&t),
            )?,
            stream_cert: self.text("stream-cert", |s| &s.stream_cert, OFF, file_or_off)?,
            stream_key: self.text("stream-key", |s| &s.stream_key, OFF, file_or_off)?,
            exec_grace: check("exec-grace", self.pick(|s| &s.exec_grace, 10), seconds)?,
            metrics_listen: self.text("metrics-listen", |s| &s.metrics_listen, OFF, address_or_off)?,
            metrics_cert: self.text("metrics-cert", |s| &s.metrics_cert, OFF, file_or_off)?,
            metrics_key: self.text("metrics-key", |s| &s.metrics_key, OFF, file_or_off)?,
            metrics_client_ca: self.text("metrics-client-ca", |s| &s.metrics_client_ca, OFF, file_or_off)?,
            metrics_token_file: self.text(
                "metrics-token-file",
                |s| &s.metrics_token_file,
                OFF,
                file_or_off,
            )?,
            tracing_endpoint: self.text(
                "tracing-endpoint",
                |s| &s.tracing_endpoint,
                OFF,
                collector_or_off,
            )?,
            tracing_sampling_rate_per_million: check(
                "tracing-sampling-rate-per-million",
                self.pick(|s| &s.tracing_sampling_rate_per_million, 0),
                per_million,
            )?,
            cgroup_driver: self.pick(|s| &s.cgroup_driver, CgroupDriver::Auto),
            log_level: self.text("log-level", |s| &s.log_level, "info", check_log_level)?,
            log_format: self.pick(|s| &s.log_format, LogFormat::Auto),
        })
    }

    fn pick<T: Clone>(&self, field: impl Fn(&RawSettings) -> &Option<T>, default: T) -> Setting<T> {
        if let Some(value) = field(&self.flags) {
            return Setting { value: value.clone(), source: Source::Flag };
        }
        let in_file = |file: &File| {
            let value = field(&file.raw).clone()?;
            Some(Setting { value, source: Source::File(file.path.clone()) })
        };
        let set = self.files.iter().rev().find_map(in_file);
        set.unwrap_or(Setting { value: default, source: Source::Default })
    }

    fn text<T>(
        &self,
        name: &'static str,
        field: impl Fn(&RawSettings) -> &Option<String>,
        default: &str,
        parse: impl FnOnce(String) -> Result<T, String>,
    ) -> Result<Setting<T>, ConfigError> {
        check(name, self.pick(field, default.to_owned()), parse)
    }

    fn folder(
        &self,
        name: &'static str,
        field: impl Fn(&RawSettings) -> &Option<PathBuf>,
        default: &str,
    ) -> Result<Setting<PathBuf>, ConfigError> {
        check(name, self.pick(field, default.into()), absolute)
    }

    fn folders(
        &self,
        name: &'static str,
        field: impl Fn(&RawSettings) -> &Option<Vec<PathBuf>>,
        default: &[&str],
    ) -> Result<Setting<Vec<PathBuf>>, ConfigError> {
        let default = default.iter().map(PathBuf::from).collect();
        check(name, self.pick(field, default), |folders| folders.into_iter().map(absolute).collect())
    }
}

/// Converts a raw value, or reports where the wrong value was set.
fn check<T, U>(
    name: &'static str,
    raw: Setting<T>,
    convert: impl FnOnce(T) -> Result<U, String>,
) -> Result<Setting<U>, ConfigError> {
    let source = raw.source;
    match convert(raw.value) {
        Ok(value) => Ok(Setting { value, source }),
        Err(message) => Err(ConfigError::Invalid { name, from: source, message }),
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    let clean = path.is_absolute() && !path.components().any(|c| c == std::path::Component::ParentDir);
    if clean { Ok(path) } else { Err(format!("{} is not an absolute path without \"..\"", path.display())) }
}

/// Switches a file, an address or a time off.
const OFF: &str = "off";
/// The folder with more files beside the configuration file.
const DROP_INS: &str = "conf.d";

fn file_or_off(text: String) -> Result<Option<PathBuf>, String> {
    if text == OFF { Ok(None) } else { absolute(text.into()).map(Some) }
}

fn group_or_off(text: String) -> Result<Option<String>, String> {
    if text.is_empty() { Err("a group has a name".to_owned()) } else { Ok((text != OFF).then_some(text)) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an address: expected IP:PORT, for example 127.0.0.1:9464"))
}

fn address_or_off(text: String) -> Result<Option<SocketAddr>, String> {
    if text == OFF { Ok(None) } else { address(&text).map(Some) }
}

/// `HOST:PORT`, with or without `http://`: OTLP over gRPC has no path.
fn collector_or_off(text: String) -> Result<Option<String>, String> {
    if text == OFF {
        return Ok(None);
    }
    let expected = "expected HOST:PORT, for example localhost:4317";
    // Neither a password nor a path is printed.
    if text.contains('@') {
        return Err(format!("a user name or password has no effect there: {expected}"));
    }
    if text.starts_with("https://") {
        return Err(format!("{text:?} is not supported, spans are sent without TLS: {expected}"));
    }
    let address = text.strip_prefix("http://").unwrap_or(&text).trim_end_matches('/');
    let uri = format!("http://{address}").parse::<tonic::transport::Uri>().ok();
    let is_address = uri.is_some_and(|uri| {
        let port = uri.port_u16().is_some_and(|port| port > 0);
        port && uri.path() == "/" && uri.query().is_none() && uri.host().is_some_and(|host| !host.is_empty())
    });
    if is_address { Ok(Some(address.to_owned())) } else { Err(format!("{text:?}: {expected}")) }
}

fn per_million(count: u32) -> Result<u32, String> {
    if count <= 1_000_000 { Ok(count) } else { Err(format!("{count} is more than 1000000, which is all")) }
}

fn pool<T: FromStr<Err = InvalidPool>>(text: String) -> Result<T, String> {
    text.parse().map_err(|error: InvalidPool| error.to_string())
}

fn seconds(seconds: u16) -> Result<Duration, String> {
    Ok(Duration::from_secs(seconds.into()))
}

fn log_files(count: u32) -> Result<u32, String> {
    if (2..=100).contains(&count) { Ok(count) } else { Err(format!("{count} is not from 2 to 100")) }
}

fn cni_timeout(count: u16) -> Result<Duration, String> {
    if count == 0 { Err("0 leaves plugins no time: at least 1".to_owned()) } else { seconds(count) }
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

/// # Errors
/// The text is not a level; the error says what is.
pub(crate) fn check_log_level(text: String) -> Result<String, String> {
    // The filter accepts any word as the name of a crate: a mistyped level would silently log nothing.
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
