//! Logins that are kept on this machine, in the files and credential helpers that docker and podman use too.
//!
//! ```text
//!   read:   REGISTRY_AUTH_FILE > containers/auth.json > docker's config.json   (credHelpers > credsStore > auths)
//!   write:  the first of them with a login for the registry, else docker's config.json
//! ```
//!
//! A secret is sent to a helper on its standard input; it is in no message.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crisp_image_service::Reference;
use crisp_proto::runtime::v1::AuthConfig;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

/// Time limit for a helper.
const HELPER: Duration = Duration::from_secs(30);
/// The user name by which helpers say that the secret is a token.
const TOKEN_USER: &str = "<token>";
/// The key of docker.io in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The logins of one user.
#[derive(Debug, Clone)]
pub struct Logins {
    /// Read in this order.
    files: Vec<PathBuf>,
    /// The file that new logins are written to.
    home: PathBuf,
}

impl Logins {
    /// The files that the environment names.
    ///
    /// # Errors
    /// No folder of the user is known.
    pub fn of_user() -> anyhow::Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|text| !text.is_empty()).map(PathBuf::from);
        let home = variable("HOME");
        let docker = variable("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
        let docker = docker.map(|folder| folder.join("config.json"));
        if let Some(file) = variable("REGISTRY_AUTH_FILE") {
            return Ok(Self { files: vec![file.clone()], home: file });
        }
        let containers = [
            variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            home.map(|folder| folder.join(".config/containers/auth.json")),
        ];
        let files = containers.into_iter().chain([docker.clone()]).flatten().collect();
        let home = docker.context("neither HOME nor DOCKER_CONFIG is set: no place for a login")?;
        Ok(Self { files, home })
    }

    /// The login for an image. None when no file has one or no file is found.
    ///
    /// # Errors
    /// A file that is damaged, or a helper that fails.
    pub async fn find(&self, image: &str) -> anyhow::Result<Option<AuthConfig>> {
        let Ok(reference) = Reference::parse(image) else { return Ok(None) };
        let keys = keys(reference.registry(), reference.repository());
        for path in &self.files {
            let Some(file) = read(path)? else { continue };
            if let Some(found) = found(&file, &keys).await.with_context(|| path.display().to_string())? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Keeps a login, where [`find`](Self::find) will read it: an earlier file with a login for the registry
    /// would hide it. Returns the place.
    ///
    /// # Errors
    /// The file cannot be written, or the helper refuses.
    pub async fn store(&self, registry: &str, username: &str, password: &str) -> anyhow::Result<String> {
        let keys = keys(registry, "");
        let (path, mut file) = self.place(&keys).await?;
        let key = key(registry);
        if let Some(helper) = helper(&file, std::slice::from_ref(&key)) {
            let input = json!({ "ServerURL": key, "Username": username, "Secret": password });
            run_helper(&helper, "store", &input.to_string()).await?;
            return Ok(format!("docker-credential-{helper}"));
        }
        let auth = base64(format!("{username}:{password}").as_bytes());
        if !file["auths"].is_object() {
            file["auths"] = Value::Object(Map::new());
        }
        // Another form of the key would be read first.
        remove_entries(&mut file, &keys);
        file["auths"][&key] = json!({ "auth": auth });
        write(path, &file)?;
        Ok(path.display().to_string())
    }

    /// The first file with a login for one of the keys, else the one for new logins.
    async fn place(&self, keys: &[String]) -> anyhow::Result<(&Path, Value)> {
        for path in &self.files {
            let Some(file) = read(path)? else { continue };
            if found(&file, keys).await?.is_some() {
                return Ok((path, file));
            }
        }
        Ok((&self.home, read(&self.home)?.unwrap_or_else(|| json!({}))))
    }

    /// Forgets a login, in all files and helpers. Returns false when there was none.
    ///
    /// # Errors
    /// A file or a helper refuses; the others have forgotten it.
    pub async fn erase(&self, registry: &str) -> anyhow::Result<bool> {
        let (mut is_gone, mut failure) = (false, None);
        for (index, path) in self.files.iter().chain([&self.home]).enumerate() {
            if self.files[..index.min(self.files.len())].contains(path) {
                continue;
            }
            match erase_from(path, registry).await {
                Ok(was_there) => is_gone |= was_there,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(is_gone), Err)
    }
}

async fn erase_from(path: &Path, registry: &str) -> anyhow::Result<bool> {
    let Some(mut file) = read(path)? else { return Ok(false) };
    let keys = keys(registry, "");
    // A helper's login hides an older one in the file.
    let is_gone = remove_entries(&mut file, &keys);
    if is_gone {
        write(path, &file)?;
    }
    let of_helper = match helper(&file, &keys) {
        Some(helper) => erase_from_helper(&helper, &keys).await?,
        None => false,
    };
    Ok(is_gone || of_helper)
}

async fn erase_from_helper(helper: &str, keys: &[String]) -> anyhow::Result<bool> {
    let mut is_gone = false;
    for server in keys.iter().filter(|key| is_server(key)) {
        let is_there = of_helper(helper, server).await?.is_some();
        let erased = run_helper(helper, "erase", server).await;
        // Many helpers fail for a login that they do not have.
        if is_there {
            erased?;
            is_gone = true;
        }
    }
    Ok(is_gone)
}

/// Removes the logins under these keys. Returns whether there was one.
fn remove_entries(file: &mut Value, keys: &[String]) -> bool {
    let Some(auths) = file["auths"].as_object_mut() else { return false };
    let before = auths.len();
    auths.retain(|name, _| !keys.contains(name));
    auths.len() < before
}

/// The key under which a login for a registry is written.
fn key(registry: &str) -> String {
    if registry == "docker.io" { DOCKER_HUB.to_owned() } else { registry.to_owned() }
}

/// The keys that may have a login for the repository, the most exact first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    while !path.is_empty() {
        keys.push(format!("{registry}/{path}"));
        path = path.rsplit_once('/').map_or("", |(above, _)| above);
    }
    let hosts: &[&str] = if registry == "docker.io" {
        &["docker.io", "index.docker.io", "registry-1.docker.io"]
    } else {
        &[registry]
    };
    for host in hosts {
        for form in [format!("https://{host}/v1/"), format!("https://{host}"), format!("http://{host}")] {
            keys.push(form);
        }
        keys.extend([format!("https://{host}/"), format!("https://{host}/v2/"), (*host).to_owned()]);
    }
    keys
}

/// Returns None when the file does not exist.
fn read(path: &Path) -> anyhow::Result<Option<Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    // The parser's own message would show a part of the file.
    let file: Option<Value> = serde_json::from_str(&text).ok();
    match file {
        Some(file) if file.is_object() => Ok(Some(file)),
        _ => bail!("{} is not in the form of docker's config.json", path.display()),
    }
}

/// Replaces the file with one that only its owner can read. A link stays, and so does the owner: with sudo, the
/// file is that of the user.
fn write(path: &Path, file: &Value) -> anyhow::Result<()> {
    use std::io::Write as _;
    let failed = || path.display().to_string();
    let path = &fs::canonicalize(path).or_else(|_| std::path::absolute(path)).with_context(failed)?;
    let folder = path.parent().unwrap_or(path);
    make_folder(folder).with_context(failed)?;
    let owner = fs::metadata(path).or_else(|_| fs::metadata(folder)).with_context(failed)?;
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
    let written = made.and_then(|mut draft| {
        // Only root can give it away.
        let _ = fchown(&draft, Some(owner.uid()), Some(owner.gid()));
        draft.write_all(serde_json::to_string_pretty(file)?.as_bytes())?;
        draft.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&draft, path));
    if placed.is_err() {
        let _ = fs::remove_file(&draft);
    }
    placed.with_context(failed)
}

/// Makes a missing folder, for the owner of the folder above it.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().ok_or(ErrorKind::NotFound)?;
    make_folder(above)?;
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        // Another login was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        made => made?,
    }
    let owner = fs::metadata(above)?;
    let _ = chown(folder, Some(owner.uid()), Some(owner.gid()));
    Ok(())
}

/// The helper that has the login of one of the keys.
fn helper(file: &Value, keys: &[String]) -> Option<String> {
    let own = keys.iter().find_map(|key| file["credHelpers"][key].as_str());
    own.or(file["credsStore"].as_str()).filter(|name| !name.is_empty()).map(str::to_owned)
}

async fn found(file: &Value, keys: &[String]) -> anyhow::Result<Option<AuthConfig>> {
    if let Some(helper) = helper(file, keys) {
        for server in keys.iter().filter(|key| is_server(key)) {
            if let Some(login) = of_helper(&helper, server).await? {
                return Ok(Some(login));
            }
        }
    }
    Ok(keys.iter().find_map(|key| of_file(&file["auths"][key])))
}

/// Whether helpers know this form of key; they do not know paths of repositories.
fn is_server(key: &str) -> bool {
    key.starts_with("https://") || !key.contains('/')
}

fn of_file(login: &Value) -> Option<AuthConfig> {
    let text = |name: &str| login[name].as_str().unwrap_or_default().to_owned();
    let found = AuthConfig {
        auth: text("auth"),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        username: text("username"),
        password: text("password"),
        ..AuthConfig::default()
    };
    // An empty entry means that a helper has the login.
    (found != AuthConfig::default()).then_some(found)
}

async fn of_helper(helper: &str, server: &str) -> anyhow::Result<Option<AuthConfig>> {
    let Ok(output) = run_helper(helper, "get", server).await else { return Ok(None) };
    let answer: Value = serde_json::from_str(&output)
        .ok()
        .with_context(|| format!("docker-credential-{helper} gives no JSON"))?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let (username, secret) = (text("Username"), text("Secret"));
    if username.is_empty() || secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if username == TOKEN_USER {
        AuthConfig { identity_token: secret, ..AuthConfig::default() }
    } else {
        AuthConfig { username, password: secret, ..AuthConfig::default() }
    }))
}

/// Runs a helper and returns its output.
#[expect(clippy::disallowed_methods, reason = "helpers of logins are programs of the user")]
async fn run_helper(helper: &str, action: &str, input: &str) -> anyhow::Result<String> {
    if !helper.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        bail!("{helper:?} is not the name of a helper");
    }
    let program = format!("docker-credential-{helper}");
    let mut command = tokio::process::Command::new(&program);
    command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let work = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER, work).await;
    let output = output.with_context(|| format!("{program} {action} does not end"))??;
    if !output.status.success() {
        bail!("{program} {action} failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins(folder: &Path, text: &str) -> Logins {
        let home = folder.join("config.json");
        fs::write(&home, text).unwrap();
        Logins { files: vec![folder.join("missing.json"), home.clone()], home }
    }

    #[tokio::test]
    async fn the_most_exact_login_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = json!({ "auths": {
            "https://index.docker.io/v1/": {"auth": "hub"}, "r.test": {"auth": "all"},
            "r.test/team": {"auth": "team"}, "t.test": {"identitytoken": "token"}, "e.test": {},
        }});
        let logins = logins(folder.path(), &file.to_string());
        let mut found = Vec::new();
        for image in ["busybox", "r.test/x", "r.test/team/app:1", "t.test/x", "e.test/x", "other.test/x"] {
            let login = logins.find(image).await.unwrap();
            found.push(login.map(|login| login.auth + &login.identity_token));
        }
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found, [some("hub"), some("all"), some("team"), some("token"), None, None]);
    }

    #[tokio::test]
    async fn a_login_is_kept_for_its_user_alone_and_forgotten() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(folder.path(), r#"{"detachKeys": "ctrl-a", "auths": {"o.test": {"auth": "x"}}}"#);
        logins.store("r.test:5000", "ann", "a:b").await.unwrap();
        logins.store("docker.io", "bob", "pass").await.unwrap();
        let mode = fs::metadata(&logins.home).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let login = logins.find("r.test:5000/x").await.unwrap().unwrap();
        assert_eq!(login.auth, "YW5uOmE6Yg==");
        assert!(logins.find("busybox").await.unwrap().is_some());
        assert!(logins.erase("docker.io").await.unwrap() && !logins.erase("docker.io").await.unwrap());
        assert!(logins.find("busybox").await.unwrap().is_none());
        let file = read(&logins.home).unwrap().unwrap();
        assert_eq!((&file["detachKeys"], &file["auths"]["o.test"]["auth"]), (&json!("ctrl-a"), &json!("x")));
        fs::write(&logins.home, r#"{"auths": {"r": {"auth": "c2VjcmV0"#).unwrap();
        let error = format!("{:#}", logins.find("busybox").await.unwrap_err());
        assert!(error.contains("config.json") && !error.contains("c2VjcmV0"), "{error}");
    }

    #[tokio::test]
    async fn a_new_login_replaces_the_one_that_is_read_first() {
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(folder.path(), r#"{"auths": {"o.test": {"auth": "x"}}}"#);
        let podman = &logins.files[0];
        fs::write(podman, r#"{"auths": {"https://r.test/v1/": {"auth": "stale"}}}"#).unwrap();
        let place = logins.store("r.test", "ann", "new").await.unwrap();
        assert_eq!(Path::new(&place), podman);
        assert_eq!(logins.find("r.test/x").await.unwrap().unwrap().auth, "YW5uOm5ldw==");
        let place = logins.store("q.test", "ann", "new").await.unwrap();
        assert_eq!(Path::new(&place), logins.home);
    }

    #[tokio::test]
    async fn no_login_is_left_in_any_file_after_a_logout() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"auths": {"r.test": {"auth": "x"}, "o.test": {"auth": "x"}}}"#;
        let logins = logins(folder.path(), text);
        fs::write(&logins.files[0], text).unwrap();
        assert!(logins.erase("r.test").await.unwrap());
        assert!(logins.find("r.test/x").await.unwrap().is_none());
        assert!(logins.find("o.test/x").await.unwrap().is_some());
        assert!(!logins.erase("r.test").await.unwrap());
        // A damaged file is named, and the other one forgets.
        fs::write(&logins.files[0], "{").unwrap();
        let error = format!("{:#}", logins.erase("o.test").await.unwrap_err());
        assert!(error.contains("missing.json"), "{error}");
        assert!(!fs::read_to_string(&logins.home).unwrap().contains("o.test"));
    }

    #[tokio::test]
    async fn a_login_file_keeps_its_owner_and_its_link() {
        crisp_skip::needs!();
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(folder.path(), "{}");
        let target = folder.path().join("dotfiles.json");
        fs::rename(&logins.home, &target).unwrap();
        std::os::unix::fs::symlink(&target, &logins.home).unwrap();
        chown(&target, Some(1234), Some(1235)).unwrap();
        logins.store("r.test", "ann", "new").await.unwrap();
        assert!(fs::symlink_metadata(&logins.home).unwrap().is_symlink());
        let there = fs::metadata(&target).unwrap();
        assert_eq!((there.uid(), there.gid(), there.mode() & 0o777), (1234, 1235, 0o600));

        // In a home without a folder for it yet.
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(1234), Some(1235)).unwrap();
        let path = home.join(".docker/config.json");
        let logins = Logins { files: vec![path.clone()], home: path.clone() };
        logins.store("r.test", "ann", "new").await.unwrap();
        for path in [&*path, path.parent().unwrap()] {
            assert_eq!(fs::metadata(path).unwrap().uid(), 1234, "{}", path.display());
        }
    }

    #[test]
    fn base64_of_any_length() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }
}
