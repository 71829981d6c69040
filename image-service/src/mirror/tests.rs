use super::*;
use std::time::Duration;

fn mirrors(files: &[(&str, &str)]) -> (tempfile::TempDir, Mirrors) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let mirrors = Mirrors::new(Some(dir.path().to_owned()));
    (dir, mirrors)
}

fn resolve(mirrors: &Mirrors, reference: &str) -> Vec<Endpoint> {
    mirrors.resolve(&Reference::parse(reference).unwrap()).unwrap().endpoints
}

fn urls(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|e| e.url().to_string()).collect()
}

fn error(file: &str) -> String {
    let (_dir, mirrors) = mirrors(&[("r.io/hosts.toml", file)]);
    mirrors.resolve(&Reference::parse("r.io/app").unwrap()).unwrap_err().to_string()
}

#[test]
fn without_a_folder_the_registry_is_asked() {
    let none = Mirrors::new(None);
    assert_eq!(urls(&resolve(&none, "busybox")), ["https://registry-1.docker.io/v2"]);
    assert_eq!(urls(&resolve(&none, "localhost:5000/app")), ["http://localhost:5000/v2"]);
    assert_eq!(urls(&resolve(&none, "[::1]:5000/app")), ["http://[::1]:5000/v2"]);
    let endpoint = &resolve(&none, "r.io/app")[0];
    assert!(endpoint.is_registry() && endpoint.host.namespace.is_none() && endpoint.pull && endpoint.resolve);
    assert_eq!(urls(&resolve(&Mirrors::new(Some("/nonexistent".into())), "r.io/app")), ["https://r.io/v2"]);
}

#[test]
fn mirrors_keep_the_order_of_the_file_and_the_server_comes_last() {
    let (_dir, mirrors) = mirrors(&[(
        "docker.io/hosts.toml",
        r#"
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
        capabilities = ["pull", "resolve"]
        [host."http://a.example:5000"]
        capabilities = ["pull"]
        [host."https://m.example/proxy"]
        [host."https://o.example/artifactory/api/docker/hub"]
        override_path = true
        "#,
    )]);
    let endpoints = resolve(&mirrors, "busybox");
    let expected = [
        "https://z.example/v2",
        "http://a.example:5000/v2",
        "https://m.example/proxy/v2",
        "https://o.example/artifactory/api/docker/hub",
        "https://registry-1.docker.io/v2",
    ];
    assert_eq!(urls(&endpoints), expected);
    assert!(
        endpoints[..4].iter().all(|e| e.host.namespace.as_deref() == Some("docker.io") && !e.is_registry())
    );
    assert!(endpoints[4].is_registry() && endpoints[4].host.namespace.is_none());
    assert_eq!((endpoints[1].pull, endpoints[1].resolve), (true, false));
}

#[test]
fn every_option_is_read() {
    let (dir, mirrors) = mirrors(&[(
        "r.io_5000_/hosts.toml",
        r#"
        ca = "/abs/server.pem"
        [host."https://m.example"]
        ca = ["a.pem", "b.pem"]
        client = [["c.pem", "c.key"], ["both.pem", ""]]
        skip_verify = true
        dial_timeout = "1m30s"
        [host."https://m.example".header]
        x-token = "secret"
        x-many = ["1", "2"]
        "#,
    )]);
    let endpoints = resolve(&mirrors, "r.io:5000/app");
    let at = |name: &str| dir.path().join("r.io_5000_").join(name);
    let mirror = &endpoints[0];
    assert_eq!(mirror.host.tls.ca, [at("a.pem"), at("b.pem")]);
    assert_eq!(
        (&mirror.host.tls.client[0].cert, &mirror.host.tls.client[0].key),
        (&at("c.pem"), &Some(at("c.key")))
    );
    assert_eq!((&mirror.host.tls.client[1].cert, &mirror.host.tls.client[1].key), (&at("both.pem"), &None));
    assert!(mirror.host.tls.skip_verify);
    assert_eq!(mirror.host.dial_timeout, Some(Duration::from_secs(90)));
    let headers: Vec<_> = mirror.host.headers.iter().map(|(k, v)| (k.as_str(), v.expose())).collect();
    assert_eq!(headers, [("x-token", "secret"), ("x-many", "1"), ("x-many", "2")]);
    assert!(!format!("{mirror:?}").contains("secret\""), "{mirror:?}");
    assert_eq!(endpoints[1].url().to_string(), "https://r.io:5000/v2");
    assert_eq!(endpoints[1].host.tls.ca, [PathBuf::from("/abs/server.pem")]);
}

#[test]
fn folders_are_found_by_host_and_port_then_default() {
    let host = |name: &str| format!("[host.\"https://{name}\"]");
    let (_dir, mirrors) = mirrors(&[
        ("r.io:5000/hosts.toml", &host("colon")),
        ("s.io_5000_/hosts.toml", &host("under")),
        ("r.io/hosts.toml", &host("plain")),
        ("_default/hosts.toml", &host("default")),
    ]);
    for (reference, first) in
        [("r.io:5000/a", "colon"), ("s.io:5000/a", "under"), ("r.io/a", "plain"), ("t.io/a", "default")]
    {
        assert_eq!(resolve(&mirrors, reference)[0].url().host(), first, "{reference}");
    }
    let fallback = resolve(&mirrors, "t.io/a");
    assert_eq!(fallback[0].host.namespace.as_deref(), Some("t.io"));
    assert_eq!(fallback[1].url().to_string(), "https://t.io/v2");
}

#[test]
fn a_folder_with_certificates_only_is_dockers() {
    let (dir, mirrors) =
        mirrors(&[("r.io/a.crt", ""), ("r.io/c.cert", ""), ("r.io/c.key", ""), ("r.io/README", "")]);
    let endpoint = &resolve(&mirrors, "r.io/a")[0];
    assert_eq!(endpoint.host.tls.ca, [dir.path().join("r.io/a.crt")]);
    assert_eq!(endpoint.host.tls.client.len(), 1);
    std::fs::remove_file(dir.path().join("r.io/c.key")).unwrap();
    let error = mirrors.resolve(&Reference::parse("r.io/a").unwrap()).unwrap_err().to_string();
    assert!(error.contains("c.key is missing"), "{error}");
}

#[test]
fn certificates_for_this_machine_mean_https() {
    let (_dir, mirrors) =
        mirrors(&[("localhost:5000/ca.crt", ""), ("127.0.0.1_5000_/hosts.toml", "skip_verify = true")]);
    assert_eq!(urls(&resolve(&mirrors, "localhost:5000/a")), ["https://localhost:5000/v2"]);
    assert_eq!(urls(&resolve(&mirrors, "127.0.0.1:5000/a")), ["https://127.0.0.1:5000/v2"]);
    assert_eq!(urls(&resolve(&mirrors, "localhost:5001/a")), ["http://localhost:5001/v2"]);
}

#[test]
fn the_registry_among_its_own_mirrors_is_asked_once() {
    let (_dir, mirrors) = mirrors(&[(
        "r.io/hosts.toml",
        "[host.\"https://m.example\"]\n[host.\"https://r.io\"]\nskip_verify = true",
    )]);
    let endpoints = resolve(&mirrors, "r.io/a");
    assert_eq!(urls(&endpoints), ["https://m.example/v2", "https://r.io/v2"]);
    assert!(
        endpoints[1].is_registry()
            && endpoints[1].host.tls.skip_verify
            && endpoints[1].host.namespace.is_none()
    );
}

#[test]
fn the_server_stays_the_last_endpoint_when_a_table_of_its_address_says_something_else() {
    let (_dir, mirrors) = mirrors(&[(
        "r.io/hosts.toml",
        "server = \"https://r.io\"\nca = \"/ca.pem\"\n[host.\"https://r.io:443\"]\ncapabilities = [\"pull\"]",
    )]);
    let endpoints = resolve(&mirrors, "r.io/a");
    assert_eq!(urls(&endpoints), ["https://r.io:443/v2", "https://r.io/v2"]);
    assert!(!endpoints[0].is_registry() && !endpoints[0].resolve && endpoints[0].host.namespace.is_none());
    let server = &endpoints[1];
    assert!(server.is_registry() && server.resolve && server.host.tls.ca == [PathBuf::from("/ca.pem")]);
}

#[test]
fn the_server_and_a_table_with_the_same_options_are_asked_once_however_they_are_written() {
    for (table, path) in [("https://r.io:443", ""), ("https://R.io/v2", ""), ("https://r.io", "/v2")] {
        let file = format!("server = \"https://r.io{path}\"\nca = \"/c\"\n[host.\"{table}\"]\nca = \"/c\"");
        let (_dir, mirrors) = mirrors(&[("r.io/hosts.toml", &file)]);
        let endpoints = resolve(&mirrors, "r.io/a");
        assert!(endpoints.len() == 1 && endpoints[0].is_registry(), "{:?}", urls(&endpoints));
    }
    // Without a mirror that resolves tags, the registry itself is still needed.
    let (_dir, mirrors) =
        mirrors(&[("r.io/hosts.toml", "[host.\"https://r.io\"]\ncapabilities = [\"pull\"]")]);
    assert_eq!(resolve(&mirrors, "r.io/a").len(), 2);
}

#[test]
fn a_change_is_seen_at_once() {
    let (dir, mirrors) = mirrors(&[("r.io/hosts.toml", "[host.\"https://one.example\"]")]);
    assert_eq!(resolve(&mirrors, "r.io/a")[0].url().host(), "one.example");
    std::fs::write(dir.path().join("r.io/hosts.toml"), "[host.\"https://two.example\"]").unwrap();
    assert_eq!(resolve(&mirrors, "r.io/a")[0].url().host(), "two.example");
}

#[test]
fn mistakes_are_named_with_file_and_key() {
    for (file, part) in [
        ("skip_verfy = true", "r.io/hosts.toml: skip_verfy: is not a supported key"),
        (
            "[host.\"https://m.io\"]\ncapabilties = []",
            "host.\"https://m.io\".capabilties: is not a supported key",
        ),
        ("[host.\"https://m.io\"]\ncapabilities = [\"pul\"]", "capabilities: \"pul\" is not one of"),
        ("[host.\"https://m.io\"]\nskip_verify = \"yes\"", "skip_verify: expected true or false"),
        ("[host.\"https://m.io\"]\ndial_timeout = \"3\"", "\"3\" is not a duration"),
        ("[host.\"https://m.io\"]\nca = 1", "ca: expected a text"),
        ("[host.\"https://m.io\"]\nclient = [[\"a\",\"b\",\"c\"]]", "client: expected a file"),
        ("[host.\"https://m.io\".header]\n\"a b\" = \"x\"", "header.a b: is not the name"),
        ("[host.\"https://m.io\".header]\na = \"x\\ny\"", "header.a: has characters"),
        ("[host.\"ftp://m.io\"]", "host.\"ftp://m.io\": \"ftp://m.io\" is not an address"),
        ("server = \"https://u:p@r.io\"", "server: \"https://…@r.io\" is not an address"),
        ("host = 1", "host: expected a table"),
        ("server = [", "hosts.toml: TOML parse error at line 1"),
    ] {
        let error = error(file);
        assert!(error.contains(part), "{file}\n{error}");
    }
}
