//! `crisp config`: the settings in force, as a file with the same effect, with the source of each.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Setting, Settings, Source};

/// All settings as TOML.
pub fn print(settings: &Settings) -> String {
    align(&lines(settings))
}

/// The settings that differ, each as a line of TOML with its new value.
pub fn differences(old: &Settings, new: &Settings) -> Vec<String> {
    let pairs = lines(old).into_iter().zip(lines(new));
    pairs.filter(|((old, _), (new, _))| old != new).map(|(_, (new, _))| new).collect()
}

/// `name = value` and the source, for each setting.
fn lines(settings: &Settings) -> Vec<(String, String)> {
    // Destructured, so that a new setting cannot be forgotten here.
    let Settings {
        listen,
        listen_group,
        root,
        state,
        registry_config_dir,
        max_layer_bytes,
        max_layer_files,
        image_check_interval,
        container_log_max_size,
        container_log_max_files,
        network,
        cni_conf_dir,
        cni_bin_dir,
        cdi_spec_dir,
        cni_conf_template,
        cni_timeout,
        cni_check_interval,
        cni_gc,
        pod_cidr,
        pod_cidr_v6,
        masquerade_except,
        bridge_name,
        stream_listen,
        stream_cert,
        stream_key,
        exec_grace,
        metrics_listen,
        metrics_cert,
        metrics_key,
        metrics_client_ca,
        metrics_token_file,
        tracing_endpoint,
        tracing_sampling_rate_per_million,
        cgroup_driver,
        log_level,
        log_format,
    } = settings;
    let mut lines = Vec::new();
    let path = |path: &Path| quoted(&path.display().to_string());
    let file = |path: &Option<PathBuf>| {
        path.as_deref().map_or_else(|| quoted("off"), |path| quoted(&path.display().to_string()))
    };
    line(&mut lines, "listen", listen, quoted(&listen.value.to_string()));
    let group = listen_group.value.as_deref().unwrap_or("off");
    line(&mut lines, "listen-group", listen_group, quoted(group));
    line(&mut lines, "root", root, path(&root.value));
    line(&mut lines, "state", state, path(&state.value));
    line(&mut lines, "registry-config-dir", registry_config_dir, path(&registry_config_dir.value));
    line(&mut lines, "max-layer-bytes", max_layer_bytes, max_layer_bytes.value.to_string());
    line(&mut lines, "max-layer-files", max_layer_files, max_layer_files.value.to_string());
    let interval = |interval: &Option<Duration>| {
        quoted(&interval.map_or("off".to_owned(), |interval| format!("{}s", interval.as_secs())))
    };
    line(&mut lines, "image-check-interval", image_check_interval, interval(&image_check_interval.value));
    let size = container_log_max_size;
    line(&mut lines, "container-log-max-size", size, size.value.to_string());
    let files = container_log_max_files;
    line(&mut lines, "container-log-max-files", files, files.value.to_string());
    line(&mut lines, "network", network, quoted(&network.value.to_string()));
    line(&mut lines, "cni-conf-dir", cni_conf_dir, path(&cni_conf_dir.value));
    line(&mut lines, "cni-bin-dir", cni_bin_dir, list(cni_bin_dir.value.iter().map(|p| path(p))));
    line(&mut lines, "cdi-spec-dir", cdi_spec_dir, list(cdi_spec_dir.value.iter().map(|p| path(p))));
    line(&mut lines, "cni-conf-template", cni_conf_template, file(&cni_conf_template.value));
    line(&mut lines, "cni-timeout", cni_timeout, cni_timeout.value.as_secs().to_string());
    line(&mut lines, "cni-check-interval", cni_check_interval, interval(&cni_check_interval.value));
    line(&mut lines, "cni-gc", cni_gc, cni_gc.value.to_string());
    line(&mut lines, "pod-cidr", pod_cidr, quoted(&pod_cidr.value.to_string()));
    line(&mut lines, "pod-cidr-v6", pod_cidr_v6, quoted(&pod_cidr_v6.value.to_string()));
    line(&mut lines, "masquerade-except", masquerade_except, quoted(&masquerade_except.value.to_string()));
    line(&mut lines, "bridge-name", bridge_name, quoted(&bridge_name.value));
    line(&mut lines, "stream-listen", stream_listen, quoted(&stream_listen.value.to_string()));
    line(&mut lines, "stream-cert", stream_cert, file(&stream_cert.value));
    line(&mut lines, "stream-key", stream_key, file(&stream_key.value));
    line(&mut lines, "exec-grace", exec_grace, exec_grace.value.as_secs().to_string());
    let metrics = metrics_listen.value.map_or("off".to_owned(), |a| a.to_string());
    line(&mut lines, "metrics-listen", metrics_listen, quoted(&metrics));
    line(&mut lines, "metrics-cert", metrics_cert, file(&metrics_cert.value));
    line(&mut lines, "metrics-key", metrics_key, file(&metrics_key.value));
    line(&mut lines, "metrics-client-ca", metrics_client_ca, file(&metrics_client_ca.value));
    line(&mut lines, "metrics-token-file", metrics_token_file, file(&metrics_token_file.value));
    let collector = tracing_endpoint.value.as_deref().unwrap_or("off");
    line(&mut lines, "tracing-endpoint", tracing_endpoint, quoted(collector));
    let rate = tracing_sampling_rate_per_million;
    line(&mut lines, "tracing-sampling-rate-per-million", rate, rate.value.to_string());
    line(&mut lines, "cgroup-driver", cgroup_driver, quoted(&cgroup_driver.value.to_string()));
    line(&mut lines, "log-level", log_level, quoted(&log_level.value));
    line(&mut lines, "log-format", log_format, quoted(&log_format.value.to_string()));
    lines
}

fn line<T>(lines: &mut Vec<(String, String)>, name: &str, setting: &Setting<T>, value: String) {
    let source = match &setting.source {
        Source::Flag => format!("flag --{name}"),
        other => other.to_string(),
    };
    lines.push((format!("{name} = {value}"), source));
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn align(lines: &[(String, String)]) -> String {
    let width = lines.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    lines.iter().fold(String::new(), |mut text, (left, source)| {
        let _ = writeln!(text, "{left:width$}  # {source}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::RawSettings;
    use super::*;

    #[test]
    fn what_it_prints_is_a_configuration_with_the_same_effect() {
        let flags = RawSettings {
            root: Some("/odd \"name\"".into()),
            metrics_listen: Some("127.0.0.1:9464".into()),
            ..RawSettings::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "state = '/s'").unwrap();
        let first = print(&Settings::resolve(flags, Some(&path)).unwrap());
        assert!(first.lines().any(|l| l.starts_with("root = ") && l.ends_with("# flag --root")), "{first}");
        assert!(first.contains(&format!("# file {}", path.display())), "{first}");
        assert!(first.contains("# default"), "{first}");

        std::fs::write(&path, &first).unwrap();
        let second = print(&Settings::resolve(RawSettings::default(), Some(&path)).unwrap());
        let values = |text: &str| {
            text.lines()
                .map(|l| l.split("  #").next().unwrap_or_default().trim().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(values(&first), values(&second));
    }
}
