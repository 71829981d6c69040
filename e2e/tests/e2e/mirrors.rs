//! Pulls through hosts.toml folders, and with credentials.

use std::path::Path;

use crisp_e2e::{Image, Layer, Machine, Registry, Result, needs, says};
use k8s_cri::v1::{AuthConfig, ImageSpec, PullImageRequest};
use tonic::Code;

fn image() -> crisp_e2e::image::Built {
    Image::new().layer(Layer::new().file("a", 0o644, b"mirrored")).build()
}

fn hosts(machine: &Machine, registry: &str, text: &str) -> Result<()> {
    let folder = machine.registries().join(registry);
    std::fs::create_dir_all(&folder)?;
    Ok(std::fs::write(folder.join("hosts.toml"), text)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_tried_in_order_with_fall_through() -> Result<()> {
    needs!("docker-registry");
    let machine = Machine::start().await?;
    let mut client = machine.client().await?;
    machine.registry().push("library/app", "1", &image())?;
    let good = &machine.registry().host;
    hosts(
        &machine,
        "docker.io",
        &format!(
            "server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:2\"]\n capabilities = [\"pull\", \"resolve\"]\n[host.\"http://{good}\"]\n capabilities = [\"pull\", \"resolve\"]\n"
        ),
    )?;
    client.pull("app:1").await?;
    hosts(&machine, "example.test", "server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:2\"]\n")?;
    let refused = client.pull("example.test/app:1").await.expect_err("both endpoints are dead");
    says(&refused, &["127.0.0.1:1", "127.0.0.1:2"]);
    hosts(&machine, "_default", &format!("[host.\"http://{good}\"]\n"))?;
    client.pull("anything.test/library/app:1").await?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_hosts_toml_is_named() -> Result<()> {
    needs!("docker-registry");
    let machine = Machine::start().await?;
    let mut client = machine.client().await?;
    hosts(&machine, "broken.test", "[host.\"http://127.0.0.1:2\"]\ncapabilites = [\"pull\"]\n")?;
    let refused = client.pull("broken.test/app:1").await.expect_err("an unknown key");
    says(&refused, &["hosts.toml", "capabilites"]);
    machine.close().await
}

/// `user` with the password `secret`, bcrypt.
const HTPASSWD: &str = "user:$2b$05$y9L6SN0J1RRjauyEbaYaY.jjpI7SljPz7mOF3UXsicD0NLhXxYC/m\n";

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_with_the_request_and_stay_secret() -> Result<()> {
    needs!("docker-registry");
    let mut machine = Machine::start().await?;
    let folder = machine.folder().join("locked");
    std::fs::create_dir(&folder)?;
    // The images were pushed to an open registry; the locked one serves the same storage.
    machine.registry.take();
    let open = Registry::start(&folder)?;
    open.push("private", "1", &image())?;
    drop(open);
    let locked = lock(&folder)?;
    let mut client = machine.client().await?;
    let mut pull = async |password: Option<&str>| {
        let auth = password.map(|p| AuthConfig {
            username: "user".into(),
            password: p.into(),
            ..Default::default()
        });
        let image = Some(ImageSpec { image: format!("{}/private:1", locked.host), ..Default::default() });
        client.images.pull_image(PullImageRequest { image, auth, sandbox_config: None }).await
    };
    for password in [None, Some("hunter2-wrong")] {
        let refused = pull(password).await.expect_err("must be refused");
        assert!([Code::Unauthenticated, Code::PermissionDenied].contains(&refused.code()), "{refused}");
        assert!(!refused.message().contains("hunter2"), "{refused}");
    }
    pull(Some("secret")).await?;
    assert!(!machine.log().contains("hunter2") && !machine.log().contains("dXNlc"), "a secret is in the log");
    drop(locked);
    machine.close().await
}

fn lock(folder: &Path) -> Result<Registry> {
    let file = folder.join("htpasswd");
    std::fs::write(&file, HTPASSWD)?;
    let path = file.display().to_string();
    Registry::start_with(
        folder,
        &[
            ("REGISTRY_AUTH", "htpasswd"),
            ("REGISTRY_AUTH_HTPASSWD_REALM", "locked"),
            ("REGISTRY_AUTH_HTPASSWD_PATH", &path),
        ],
    )
}
