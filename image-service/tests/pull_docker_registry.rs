//! Pulls from Debian's docker-registry: plain, with TLS, with client certificates, with passwords.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use crisp_image_service::{Auth, ErrorKind};
use support::docker_registry::{Certificates, DockerRegistry};
use support::image::{DOCKER_MANIFEST, Image, Layer, OCI_MANIFEST, Packing, host_architecture, noise};
use support::{Bench, user};

/// crypt_blowfish's published test vector: the password is `U*U`.
const HTPASSWD: &str = "ann:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";

fn image() -> Image {
    let big = noise(7, 2 << 20);
    Image::new(vec![
        Layer::new(&[("plain", b"1")], Packing::Plain),
        Layer::new(&[("big", &big)], Packing::Gzip),
        Layer::new(&[("zstd", b"3")], Packing::Zstd),
    ])
}

/// A registry with the image in it, pushed through a plain one on the same folder.
fn filled(bench: &Bench, settings: &[(&str, String)]) -> Option<(DockerRegistry, Image)> {
    let storage = bench.dir.path().join("storage");
    let image = image();
    DockerRegistry::start(&storage, &[])?.push("v1", &image);
    Some((DockerRegistry::start(&storage, settings)?, image))
}

#[tokio::test]
async fn tags_digests_indexes_and_both_manifest_families() {
    let bench = Bench::new().await;
    let Some(registry) = DockerRegistry::start(&bench.dir.path().join("storage"), &[]) else { return };
    let here = host_architecture();
    let oci = image();
    let docker = Image::for_platform(oci.layers[..2].to_vec(), DOCKER_MANIFEST, here);
    let other = Image::for_platform(oci.layers[..1].to_vec(), OCI_MANIFEST, "s390x");
    let index = Image::index(vec![("s390x", other), (here, oci.clone())]);
    registry.push("oci", &oci);
    registry.push("docker", &docker);
    registry.push("index", &index);
    let name = format!("{}/app", registry.address);
    for (reference, config) in [
        (format!("{name}:oci"), &oci.config),
        (format!("{name}:docker"), &docker.config),
        (format!("{name}:index"), &oci.config),
        (format!("{name}@{}", index.digest), &oci.config),
        (format!("{name}:any@{}", docker.digest), &docker.config),
    ] {
        assert_eq!(bench.pull(&reference).await.unwrap().digest(), config, "{reference}");
        assert_eq!(bench.images.find(&reference.replace(":any", "")).unwrap().id.digest(), config);
    }
    assert_eq!(bench.read(&format!("{name}:index"), "zstd").unwrap(), b"3");
    assert_eq!(bench.read(&format!("{name}:index"), "big").unwrap(), noise(7, 2 << 20));
    let missing = bench.pull(&format!("{name}:nope")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("MANIFEST_UNKNOWN"), "{missing}");
    let unknown = bench.pull(&format!("{}/none", registry.address)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_mirror_on_this_machine_serves_a_registry_that_is_away() {
    let bench = Bench::new().await;
    let Some((registry, image)) = filled(&bench, &[]) else { return };
    bench.hosts(
        "test.example",
        &format!("server = \"http://127.0.0.1:9\"\n[host.\"http://{}\"]", registry.address),
    );
    assert_eq!(bench.pull("test.example/app:v1").await.unwrap().digest(), &image.config);
}

#[tokio::test]
async fn tls_is_verified_and_errors_say_what_to_do() {
    let bench = Bench::new().await;
    let Some(certificates) = Certificates::make(&bench.dir.path().join("tls")) else { return };
    let tls = [
        ("REGISTRY_HTTP_TLS_CERTIFICATE", certificates.path("server.pem")),
        ("REGISTRY_HTTP_TLS_KEY", certificates.path("server.key")),
    ];
    let Some((registry, image)) = filled(&bench, &tls) else { return };
    let (app, url) = ("test.example/app:v1", format!("https://{}", registry.address));
    bench.hosts("test.example", &format!("server = \"{url}\""));
    let error = bench.pull(app).await.unwrap_err();
    assert!(
        error.to_string().contains("TLS handshake failed") && error.to_string().contains("add its authority"),
        "{error}"
    );
    bench.hosts("test.example", &format!("server = \"{url}\"\nca = \"missing.pem\""));
    let error = bench.pull(app).await.unwrap_err().to_string();
    assert!(error.contains("test.example/missing.pem: No such file"), "{error}");
    bench.hosts("test.example", &format!("server = \"http://{}\"", registry.address));
    let error = bench.pull(app).await.unwrap_err().to_string();
    assert!(error.contains("answered 400"), "{error}");
    bench.hosts("test.example", &format!("server = \"{url}\"\nca = \"{}\"", certificates.path("ca.pem")));
    assert_eq!(bench.pull(app).await.unwrap().digest(), &image.config);
    let fresh = Bench::new().await;
    fresh.hosts("test.example", &format!("server = \"{url}\"\nskip_verify = true"));
    assert_eq!(fresh.pull(app).await.unwrap().digest(), &image.config);
    // Docker's folder: the authority lies there, and there is no hosts.toml.
    let docker = Bench::new().await;
    let folder = docker.dir.path().join(format!("certs.d/localhost:{}", registry.address.port()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(certificates.path("ca.pem"), folder.join("ca.crt")).unwrap();
    let resolution = docker.images.resolve(&format!("localhost:{}/app", registry.address.port())).unwrap();
    assert_eq!(resolution.endpoints[0].host.tls.ca, [folder.join("ca.crt")]);
}

#[tokio::test]
async fn plain_http_where_tls_is_expected_says_so() {
    let bench = Bench::new().await;
    let Some((registry, _)) = filled(&bench, &[]) else { return };
    bench.hosts("test.example", &format!("server = \"https://{}\"", registry.address));
    let error = bench.pull("test.example/app:v1").await.unwrap_err().to_string();
    assert!(error.contains("does it speak plain http?"), "{error}");
}

#[tokio::test]
async fn client_certificates_are_shown() {
    let bench = Bench::new().await;
    let Some(certificates) = Certificates::make(&bench.dir.path().join("tls")) else { return };
    let tls = [
        ("REGISTRY_HTTP_TLS_CERTIFICATE", certificates.path("server.pem")),
        ("REGISTRY_HTTP_TLS_KEY", certificates.path("server.key")),
        ("REGISTRY_HTTP_TLS_CLIENTCAS", format!("[{}]", certificates.path("ca.pem"))),
    ];
    let Some((registry, image)) = filled(&bench, &tls) else { return };
    let (app, ca) = ("test.example/app:v1", certificates.path("ca.pem"));
    let base = format!("server = \"https://{}\"\nca = \"{ca}\"\n", registry.address);
    bench.hosts("test.example", &base);
    let error = bench.pull(app).await.unwrap_err().to_string();
    assert!(error.contains("client = in hosts.toml"), "{error}");
    let pair = format!(
        "client = [[\"{}\", \"{}\"]]",
        certificates.path("client.pem"),
        certificates.path("client.key")
    );
    bench.hosts("test.example", &format!("{base}{pair}"));
    assert_eq!(bench.pull(app).await.unwrap().digest(), &image.config);
}

#[tokio::test]
async fn passwords_are_checked() {
    let bench = Bench::new().await;
    let htpasswd = bench.dir.path().join("htpasswd");
    std::fs::write(&htpasswd, HTPASSWD).unwrap();
    let auth = [
        ("REGISTRY_AUTH", "htpasswd".to_owned()),
        ("REGISTRY_AUTH_HTPASSWD_REALM", "test".to_owned()),
        ("REGISTRY_AUTH_HTPASSWD_PATH", htpasswd.display().to_string()),
    ];
    let Some((registry, image)) = filled(&bench, &auth) else { return };
    let app = format!("{}/app:v1", registry.address);
    assert_eq!(bench.pull(&app).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    let wrong = bench.pull_as(&app, user("ann", "nope")).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Unauthenticated, "{wrong}");
    let elsewhere = Auth { server_address: "https://other.example".to_owned(), ..user("ann", "U*U") };
    let error = bench.pull_as(&app, elsewhere).await.unwrap_err().to_string();
    assert!(error.contains("the credentials of the request are for another server"), "{error}");
    assert_eq!(bench.pull_as(&app, user("ann", "U*U")).await.unwrap().digest(), &image.config);
}
