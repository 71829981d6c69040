//! `crisp debug bundle`: its members, and that none contains a secret.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use crisp_e2e::{Lab, Registry, Result, Setup, free_port, needs, request};
use k8s_cri::v1::{AuthConfig, ImageSpec, KeyValue, PullImageRequest};

/// A text that no member may contain.
const SECRET: &str = "hunter2-of-this-test";
/// `user:hunter2-of-this-test` in base64, as it is sent.
const ENCODED: &str = "dXNlcjpodW50ZXIyLW9mLXRoaXMtdGVzdA";

fn members(path: &Path) -> Result<BTreeMap<String, String>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(path)?));
    let mut members = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        members.insert(name, text);
    }
    Ok(members)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_has_what_helps_and_no_secret() -> Result<()> {
    needs!("docker-registry", "busybox");
    let listen = format!("127.0.0.1:{}", free_port()?);
    let args = ["--metrics-listen".to_owned(), listen.clone()].to_vec();
    let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
    let folder = lab.machine.registries().join("mirrored.test");
    std::fs::create_dir(&folder)?;
    let mirror = &lab.machine.registry().host;
    let hosts = format!(
        "[host.\"http://{mirror}\"]\n[host.\"http://{mirror}\".header]\nauthorization = \"Basic {ENCODED}\"\n"
    );
    std::fs::write(folder.join("hosts.toml"), format!("server = \"http://{mirror}\"\n{hosts}"))?;
    let locked = Registry::start_private(&lab.machine.folder().join("locked"), "user:$2y$05$invalid\n")?;
    let image = Some(ImageSpec { image: format!("{}/private:1", locked.host), ..Default::default() });
    let auth = AuthConfig { username: "user".into(), password: SECRET.into(), ..Default::default() };
    let pull = PullImageRequest { image, auth: Some(auth), ..Default::default() };
    lab.client.images.pull_image(pull).await.expect_err("the password does not fit");
    let mut sandbox = request::pod(&lab.machine, "shop");
    sandbox.annotations.insert("kubectl.kubernetes.io/last-applied-configuration".into(), SECRET.into());
    sandbox.labels.insert("api_key".into(), SECRET.into());
    let pod = lab.client.run_pod(&sandbox).await?;
    let mut config = lab.shell(&format!("export PASSWORD={SECRET}; sleep 1000"));
    config.envs.push(KeyValue { key: "DB_PASSWORD".into(), value: SECRET.into() });
    config.annotations.insert("note".into(), SECRET.into());
    let id = lab.client.launch(&pod, &config, &sandbox).await?;

    // Errors and journal have the name of the program that cannot be started.
    let mut failing = lab.shell("");
    failing.command = vec![format!("/none/password={SECRET}")];
    let refused = lab.refused("failing", &failing).await?;
    assert!(refused.message().contains(SECRET), "{refused}");

    let bundle = lab.machine.folder().join("bundle.tar.gz");
    let flags = lab.machine.flags();
    let path = bundle.display().to_string();
    // The machine's command line adds `--listen` itself.
    let more = ["bundle", &path, "--metrics-listen", &listen];
    let args: Vec<&str> =
        ["debug"].into_iter().chain(more).chain(flags.iter().skip(2).map(String::as_str)).collect();
    let output = lab.machine.crisp(&args)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let members = members(&bundle)?;
    for (name, words) in [
        ("version.txt", "crisp "),
        ("config.toml", "bridge-name"),
        ("kernel.txt", "Linux version"),
        ("doctor.json", "OWNER_POD"),
        ("info.json", "runtimeVersion"),
        ("pods.json", "last-applied-configuration"),
        ("containers.json", id.as_str()),
        ("images.json", "busybox"),
        ("operations.json", "["),
        ("journal.json", "JOURNAL_CREATE"),
        ("metrics.txt", "crisp_"),
    ] {
        let member = members.get(&format!("crisp-debug/{name}"));
        assert!(member.is_some_and(|text| text.contains(words)), "{name} has no {words}: {member:?}");
    }
    for (name, text) in &members {
        assert!(!text.contains(SECRET) && !text.contains(ENCODED), "a secret is in {name}");
    }
    let again = lab.machine.crisp(&args)?;
    assert!(!again.status.success(), "an archive that exists is not replaced");
    lab.close().await
}
