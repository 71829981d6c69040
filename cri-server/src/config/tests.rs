use std::path::Path;

use super::resolve::ConfigError;
use super::*;

fn resolve(flags: RawSettings, file: &str) -> Result<Settings, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crisp.toml");
    std::fs::write(&path, file).unwrap();
    Settings::resolve(flags, Some(&path))
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let flags = RawSettings { root: Some("/flag".into()), ..RawSettings::default() };
    let settings = resolve(flags, "root = '/file'\nstate = '/file'").unwrap();
    assert_eq!((settings.root.value, settings.root.source), ("/flag".into(), Source::Flag));
    assert_eq!(settings.state.value, Path::new("/file"));
    assert!(matches!(settings.state.source, Source::File(p) if p.ends_with("crisp.toml")));
    assert_eq!(settings.bridge_name, Setting { value: "crisp0".into(), source: Source::Default });
}

#[test]
fn a_run_takes_folders_and_addresses_from_flags_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crisp.toml");
    let file =
        "root = '/r'\nlisten = 'unix:///s'\npod-cidr = '10.1.0.0/16'\nmax-layer-files = 7\ncni-gc = true";
    std::fs::write(&path, file).unwrap();
    let flags = RawSettings { state: Some("/flag".into()), ..RawSettings::default() };
    let settings = Settings::resolve_for_run(flags, Some(&path)).unwrap();
    assert!(settings.root.is_default() && settings.listen.is_default() && settings.pod_cidr.is_default());
    assert_eq!((settings.state.value, settings.max_layer_files.value), ("/flag".into(), 7));
    assert!(!settings.cni_gc.value);
}

#[test]
fn a_run_never_collects_the_addresses_of_others() {
    let flags = |cni_gc| RawSettings { cni_gc: Some(cni_gc), ..RawSettings::default() };
    let error = Settings::resolve_for_run(flags(true), None).unwrap_err().to_string();
    assert!(error.contains("cni-gc") && error.contains("crisp serve"), "{error}");
    assert!(!Settings::resolve_for_run(flags(false), None).unwrap().cni_gc.value);
}

#[test]
fn every_setting_can_be_in_the_file() {
    let settings = resolve(
        RawSettings::default(),
        r#"
        listen = "unix:///tmp/a.sock"
        root = "/r"
        state = "/s"
        registry-config-dir = "/c"
        cni-conf-dir = "/n"
        cni-bin-dir = ["/b1", "/b2"]
        cdi-spec-dir = ["/cdi"]
        cni-conf-template = "/t/template.conflist"
        cni-timeout = 60
        cni-check-interval = "10m"
        cni-gc = true
        network = "built-in"
        max-layer-bytes = 1
        max-layer-files = 1
        image-check-interval = "168h"
        container-log-max-size = 4096
        container-log-max-files = 3
        pod-cidr = "10.1.0.0/16"
        pod-cidr-v6 = "fd00:1::/64"
        masquerade-except = "10.244.0.0/16,fd00:2::/48"
        bridge-name = "br"
        stream-listen = "127.0.0.1:1"
        stream-cert = "/t/c.pem"
        stream-key = "/t/k.pem"
        exec-grace = 3
        metrics-listen = "127.0.0.1:2"
        metrics-cert = "/t/mc.pem"
        metrics-key = "/t/mk.pem"
        metrics-client-ca = "/t/ca.pem"
        metrics-token-file = "/t/token"
        tracing-endpoint = "localhost:4317"
        tracing-sampling-rate-per-million = 1000
        listen-group = "ops"
        cgroup-driver = "cgroupfs"
        log-level = "debug"
        log-format = "json"
        "#,
    )
    .unwrap();
    assert!(!format!("{settings:?}").contains("Default"), "{settings:?}");
    assert_eq!(settings.cni_bin_dir.value, [Path::new("/b1"), Path::new("/b2")]);
    assert_eq!(settings.image_check_interval.value, Some(Duration::from_secs(7 * 24 * 3600)));
    assert_eq!(settings.metrics_listen.value, Some("127.0.0.1:2".parse().unwrap()));
}

#[test]
fn an_unknown_key_is_refused_by_name_and_line() {
    let error = resolve(RawSettings::default(), "root = '/r'\nrooot = '/r'").unwrap_err().to_string();
    assert!(error.contains("rooot") && error.contains("line 2"), "{error}");
}

#[test]
fn bad_values_name_the_setting_and_its_source() {
    let refused = |file: &str, words: &[&str]| {
        let error = resolve(RawSettings::default(), file).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
    };
    refused("root = 'relative'", &["root", "crisp.toml", "absolute"]);
    refused("state = '/a/../b'", &["state", "absolute"]);
    refused("listen = 'tcp://1'", &["listen", "unix:///"]);
    refused("metrics-listen = 'localhost'", &["metrics-listen", "IP:PORT"]);
    refused("pod-cidr = '10.0.0.1/8'", &["pod-cidr", "10.0.0.0/8"]);
    refused("masquerade-except = '10.244.0.1/16'", &["masquerade-except", "10.244.0.0/16 is meant"]);
    refused("pod-cidr-v6 = 'on'", &["pod-cidr-v6", "fd00:10:88::/64"]);
    refused("container-log-max-files = 1", &["container-log-max-files", "from 2 to 100"]);
    refused("cgroup-driver = 'other'", &["cgroupfs"]);
    refused("image-check-interval = 'often'", &["image-check-interval", "often", "24h"]);
    refused("image-check-interval = '-1h'", &["image-check-interval"]);
    refused("image-check-interval = '0s'", &["image-check-interval"]);
    refused("log-level = 'lots'", &["log-level", "lots"]);
    for endpoint in
        ["localhost", "http://localhost", "a:b", ":4317", "a:0", "http://a:1/v1", "ftp://a:1", "a b:1"]
    {
        refused(&format!("tracing-endpoint = '{endpoint}'"), &["tracing-endpoint", endpoint, "HOST:PORT"]);
    }
    refused("tracing-endpoint = 'https://a:4317'", &["tracing-endpoint", "without TLS"]);
    refused("tracing-sampling-rate-per-million = 1000001", &["tracing-sampling-rate-per-million", "1000000"]);
    refused("cni-timeout = 0", &["cni-timeout", "at least 1"]);
    refused("cni-check-interval = 'often'", &["cni-check-interval", "often"]);
    refused("cni-bin-dir = '/one'", &["cni-bin-dir"]);
}

#[test]
fn a_run_sends_no_traces() {
    let flags =
        |endpoint: &str| RawSettings { tracing_endpoint: Some(endpoint.into()), ..RawSettings::default() };
    let error = Settings::resolve_for_run(flags("localhost:4317"), None).unwrap_err().to_string();
    assert!(error.contains("tracing-endpoint") && error.contains("crisp serve"), "{error}");
    assert!(Settings::resolve_for_run(flags("off"), None).is_ok());
}

#[test]
fn a_collector_is_a_host_and_a_port() {
    let collector = |text: &str| {
        let flags = RawSettings { tracing_endpoint: Some(text.to_owned()), ..RawSettings::default() };
        resolve(flags, "").map(|settings| settings.tracing_endpoint.value)
    };
    assert_eq!(collector("off").unwrap(), None);
    for text in ["127.0.0.1:4317", "[::1]:4317", "collector.lab:4317", "http://127.0.0.1:4317/"] {
        let address = text.trim_start_matches("http://").trim_end_matches('/');
        assert_eq!(collector(text).unwrap().as_deref(), Some(address));
    }
    let error = collector("http://ann:hunter2@a:1").unwrap_err().to_string();
    assert!(error.contains("tracing-endpoint") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let error =
        Settings::resolve(RawSettings::default(), Some(Path::new("/nonexistent/c.toml"))).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/c.toml"), "{error}");
}

#[test]
fn files_of_the_folder_beside_it_go_over_the_file_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("crisp.toml");
    std::fs::write(&file, "root = '/file'\nstate = '/file'\nbridge-name = 'file'").unwrap();
    let more = folder.path().join("conf.d");
    std::fs::create_dir(&more).unwrap();
    std::fs::write(more.join("20-b.toml"), "state = '/b'").unwrap();
    std::fs::write(more.join("10-a.toml"), "root = '/a'\nstate = '/a'").unwrap();
    std::fs::write(more.join("README"), "root = '/not a file of settings'").unwrap();
    let flags = RawSettings { bridge_name: Some("flag".into()), ..RawSettings::default() };
    let settings = Settings::resolve(flags.clone(), Some(&file)).unwrap();
    let found = (settings.root.value, settings.state.value, settings.bridge_name.value.as_str());
    assert_eq!(found, ("/a".into(), "/b".into(), "flag"));
    assert_eq!(settings.root.source, Source::File(more.join("10-a.toml")));

    std::fs::write(more.join("30-c.toml"), "rooot = '/c'").unwrap();
    let error = Settings::resolve(flags, Some(&file)).unwrap_err().to_string();
    assert!(error.contains("30-c.toml") && error.contains("rooot"), "{error}");
}

#[test]
fn differences_name_settings_and_new_values() {
    let old = resolve(RawSettings::default(), "exec-grace = 3\nlog-level = 'warn'").unwrap();
    let new = resolve(RawSettings::default(), "exec-grace = 3\nlog-level = 'debug'").unwrap();
    assert_eq!(differences(&old, &new), ["log-level = \"debug\""]);
    assert_eq!(differences(&old, &old), [""; 0]);
}
