use super::*;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn short_names_become_complete() {
    for (given, complete) in [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
        ("user/app", "docker.io/user/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("[fe80::1]/app", "[fe80::1]/app:latest"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("Registry.Example.com/app", "registry.example.com/app:latest"),
        ("Host/app", "Host/app:latest"),
        ("LOCALHOST/app", "localhost/app:latest"),
        ("r.io/a__b/c--d/e.f_g", "r.io/a__b/c--d/e.f_g:latest"),
    ] {
        let reference = Reference::parse(given).unwrap();
        assert_eq!(reference.to_string(), complete);
        assert_eq!(Reference::parse(complete).unwrap(), reference, "canonical text is stable");
    }
}

#[test]
fn a_digest_takes_no_default_tag_and_decides_what_is_wanted() {
    let by_digest = Reference::parse(&format!("r.io/app@{SHA}")).unwrap();
    assert_eq!((by_digest.tag(), by_digest.wanted(), by_digest.repo_tag()), (None, SHA, None));
    let both = Reference::parse(&format!("r.io/app:v1@{SHA}")).unwrap();
    assert_eq!(both.to_string(), format!("r.io/app:v1@{SHA}"));
    assert_eq!((both.tag(), both.wanted(), both.repo_tag()), (Some("v1"), SHA, None));
    let digest = both.digest().unwrap();
    assert_eq!(both.repo_digest(digest), format!("r.io/app@{SHA}"));
    assert_eq!(Reference::parse("r.io/app").unwrap().repo_tag().unwrap(), "r.io/app:latest");
}

#[test]
fn errors_name_the_part_that_is_wrong() {
    for (given, part) in [
        ("", "empty"),
        ("Busybox", "upper-case"),
        ("r.io/App", "upper-case"),
        ("r.io/app:", "not a tag"),
        ("r.io/app:-x", "not a tag"),
        ("r.io/app:a b", "not a tag"),
        ("r.io/app@sha256:12", "64 lower-case"),
        ("r.io/app@md5:12", "\"md5\" is not supported"),
        ("r.io/app@", "expected algorithm:hex"),
        ("r.io//app", "it is empty"),
        ("r.io/", "it is empty"),
        ("r.io/../../etc", "separated by"),
        ("r.io/-a", "start and end"),
        ("r.io/a..b", "separated by"),
        ("r.io/a___b", "separated by"),
        ("r.io/a b", "only a-z"),
        ("r.io:port/app", "the port is not"),
        ("r.io:70000/app", "the port is not"),
        ("r.io:/app", "the port is not"),
        ("[::1/app", "']'"),
        ("[zz::]/app", "not an IPv6"),
        ("-r.io/app", "a host name is made"),
        ("http://r.io/app", "without http://"),
    ] {
        let error = Reference::parse(given).unwrap_err().to_string();
        assert!(error.contains(part), "{given}: {error}");
    }
    let id = "a".repeat(64);
    assert_eq!(Reference::parse(&id), Err(InvalidReference::ImageId(id)));
    assert!(matches!(Reference::parse(&"a".repeat(300)), Err(InvalidReference::TooLong(_))));
    assert!(matches!(Reference::parse(&"a".repeat(3000)), Err(InvalidReference::TooLong(_))));
}
