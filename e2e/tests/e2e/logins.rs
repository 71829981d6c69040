//! `crisp login` and `crisp logout`: with a registry, and with the files and helpers of docker and podman.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crisp_e2e::machine::crisp;
use crisp_e2e::{Image, Lab, Layer, Registry, Result, needs};
use serde_json::json;

/// A helper that keeps each login in a file of its own.
const HELPER: &str = r#"#!/bin/sh
input=$(cat)
key=$(echo "$input" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/' | tr / _)
case $1 in
store) echo "$input" > "$HOME/kept/$key";;
get) cat "$HOME/kept/$key" 2>/dev/null || { echo credentials not found in native keychain; exit 1; };;
erase) rm "$HOME/kept/$key";;
esac
"#;

/// The home of a user, without a server.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    /// With a configuration of docker, if any.
    fn new(config: Option<serde_json::Value>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("kept"))?;
        if let Some(config) = config {
            std::fs::create_dir(folder.path().join(".docker"))?;
            std::fs::write(folder.path().join(".docker/config.json"), config.to_string())?;
        }
        Ok(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn helper(&self, name: &str, script: &str) -> Result<()> {
        let path = self.path().join(format!("docker-credential-{name}"));
        std::fs::write(&path, script)?;
        Ok(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?)
    }

    fn config(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.path().join(".docker/config.json"))?)
    }

    /// The keys that [`HELPER`] has.
    fn kept(&self) -> Result<Vec<String>> {
        let names = std::fs::read_dir(self.path().join("kept"))?;
        names.map(|name| Ok(name?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn keep(&self, key: &str, username: &str) -> Result<()> {
        let login = json!({"ServerURL": key, "Username": username, "Secret": "old"}).to_string();
        Ok(std::fs::write(self.path().join("kept").join(key.replace('/', "_")), login)?)
    }

    /// Runs a command in the home, with these variables too. The password is `new`.
    fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> Result<(bool, String)> {
        let mut command = Command::new(crisp());
        command.args(args).current_dir(self.path()).env("HOME", self.path());
        command.env_remove("XDG_RUNTIME_DIR").env_remove("DOCKER_CONFIG").envs(variables.iter().copied());
        command.env("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{}/none", self.path().display()));
        command.env("PATH", format!("{}:{}", self.path().display(), std::env::var("PATH")?));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().expect("a pipe").write_all(b"new\n")?;
        let output = child.wait_with_output()?;
        Ok((output.status.success(), String::from_utf8([output.stdout, output.stderr].concat())?))
    }
}

fn login(registry: &str) -> [&str; 5] {
    ["login", "-u", "ann", "--password-stdin", registry]
}

#[test]
fn a_new_login_in_a_helper_replaces_the_one_that_is_read_first() -> Result<()> {
    let home = Home::new(Some(json!({"credsStore": "keys", "auths": {"docker.io": {"auth": "old"}}})))?;
    home.helper("keys", HELPER)?;
    // As podman keeps it.
    home.keep("docker.io", "bob")?;
    home.keep("r.test", "bob")?;
    let (done, text) = home.run(&login("docker.io"), &[])?;
    assert!(done && text.contains("docker-credential-keys"), "{text}");
    let mut kept = home.kept()?;
    kept.sort();
    assert_eq!(kept, ["https:__index.docker.io_v1_", "r.test"]);
    assert!(!home.config()?.contains("old"), "{}", home.config()?);

    // The helper of one registry is the one to ask, whatever form its key has.
    let home = Home::new(Some(json!({"credsStore": "none", "credHelpers": {"docker.io": "keys"}})))?;
    home.helper("keys", HELPER)?;
    let (done, text) = home.run(&login("docker.io"), &[])?;
    assert!(done && home.kept()?.len() == 1, "{text}");

    // A helper that gives one login for all keys keeps it.
    let home = Home::new(Some(json!({"credsStore": "one"})))?;
    home.helper("one", "#!/bin/sh\ncase $1 in store) cat > \"$HOME/kept/all\";; get) cat \"$HOME/kept/all\";; erase) rm \"$HOME/kept/all\";; esac\n")?;
    let (done, text) = home.run(&login("r.test"), &[])?;
    assert!(done && home.kept()? == ["all"], "{text}");
    Ok(())
}

#[test]
fn a_logout_says_that_a_helper_cannot_be_asked() -> Result<()> {
    let locked = "#!/bin/sh\necho the keyring is locked; exit 1\n";
    for (helper, script, words) in [
        ("absent", None, "cannot start docker-credential-absent"),
        ("locked", Some(locked), "docker-credential-locked get failed"),
    ] {
        let home = Home::new(Some(json!({"credsStore": helper, "auths": {"r.test": {"auth": "old"}}})))?;
        if let Some(script) = script {
            home.helper(helper, script)?;
        }
        // With an older entry in the file, which goes, and without.
        for _ in 0..2 {
            let (done, text) = home.run(&["logout", "r.test"], &[])?;
            assert!(!done && text.contains("may still be kept") && text.contains(words), "{text}");
            assert!(!home.config()?.contains("old"));
        }
    }
    let home = Home::new(Some(json!({"credsStore": "keys"})))?;
    home.helper("keys", HELPER)?;
    let (done, text) = home.run(&["logout", "r.test"], &[])?;
    assert!(!done && text.contains("there is no login for r.test"), "{text}");
    home.keep("https://r.test", "bob")?;
    let (done, text) = home.run(&["logout", "r.test"], &[])?;
    assert!(done && home.kept()?.is_empty(), "{text}");
    Ok(())
}

#[test]
fn a_login_is_kept_in_a_relative_file_that_is_not_there_yet() -> Result<()> {
    for (variable, value, file) in [
        ("REGISTRY_AUTH_FILE", "auth.json", "auth.json"),
        ("REGISTRY_AUTH_FILE", "a/b/auth.json", "a/b/auth.json"),
        ("DOCKER_CONFIG", "cfg", "cfg/config.json"),
    ] {
        let home = Home::new(None)?;
        let (done, text) = home.run(&login("r.test"), &[(variable, value)])?;
        let file: PathBuf = home.path().join(file);
        assert!(done && file.is_file(), "{variable}={value}: {text}");
        assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
        let (done, text) = home.run(&["logout", "r.test"], &[(variable, value)])?;
        assert!(done, "{variable}={value}: {text}");
    }
    Ok(())
}

/// The bcrypt hash of `hunter2`.
const PASSWORD: &str = "ann:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_kept_used_by_pulls_and_shown_nowhere() -> Result<()> {
    needs!("docker-registry", "busybox");
    let lab = Lab::start().await?;
    let folder = lab.machine.folder().join("private");
    let image = Registry::start(&folder)?.push(
        "app",
        "1",
        &Image::new().layer(Layer::new().file("f", 0o644, b"1")).build(),
    )?;
    let registry = Registry::start_private(&folder, PASSWORD)?;
    let image = format!("{}/{}", registry.host, image.split_once('/').map_or("", |(_, name)| name));
    let config = lab.machine.folder().join("docker");
    let run = |args: &[&str], input: &str, path: &str| {
        let mut command = Command::new(crisp());
        command.args(args).env("DOCKER_CONFIG", &config).env_remove("XDG_RUNTIME_DIR").env("HOME", &config);
        command.env("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{}", lab.machine.socket().display()));
        command.env("PATH", path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().expect("a pipe").write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        assert!(!text.contains("hunter2"), "{text}");
        Ok::<_, crisp_e2e::Error>((output.status.success(), text))
    };
    let path = std::env::var("PATH")?;
    let (done, text) = run(&["pull", &image], "", &path)?;
    assert!(!done && text.contains("authentication required"), "{text}");
    let login = ["login", "-u", "ann", "--password-stdin", &registry.host];
    let (done, text) = run(&login, "wrong\n", &path)?;
    assert!(!done && !config.join("config.json").exists(), "{text}");
    let (done, text) = run(&login, "hunter2\n", &path)?;
    assert!(done, "{text}");
    let file = config.join("config.json");
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    let (done, text) = run(&["pull", &image], "", &path)?;
    assert!(done, "{text}");
    assert!(run(&["logout", &registry.host], "", &path)?.0);
    run(&["rmi", &image], "", &path)?;
    assert!(!run(&["pull", &image], "", &path)?.0);

    // The same with a credential helper, which has the secret in a file of its own.
    let helper = config.join("docker-credential-test");
    let script = "#!/bin/sh\ncase $1 in store) cat > \"$HOME/secret\";; get) cat > /dev/null; cat \"$HOME/secret\";; erase) rm \"$HOME/secret\";; esac\n";
    std::fs::write(&helper, script)?;
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755))?;
    std::fs::write(&file, json!({"credsStore": "test"}).to_string())?;
    let path = format!("{}:{path}", config.display());
    assert!(run(&login, "hunter2\n", &path)?.0);
    assert!(!std::fs::read_to_string(&file)?.contains("auths"));
    let (done, text) = run(&["pull", &image], "", &path)?;
    assert!(done, "{text}");
    // An older login of each other tool, which the helper hides.
    let podman = config.join(".config/containers/auth.json");
    std::fs::create_dir_all(podman.parent().expect("a folder"))?;
    let older = json!({ &registry.host: {"auth": "YW5uOmh1bnRlcjI="} });
    std::fs::write(&podman, json!({"auths": older}).to_string())?;
    std::fs::write(&file, json!({"credsStore": "test", "auths": older}).to_string())?;
    assert!(run(&["logout", &registry.host], "", &path)?.0 && !config.join("secret").exists());
    run(&["rmi", &image], "", &path)?;
    assert!(!run(&["pull", &image], "", &path)?.0, "a login is left");
    assert!(!run(&["logout", &registry.host], "", &path)?.0);
    assert!(!lab.machine.log().contains("hunter2"));
    lab.close().await
}
