//! Logins that are kept on this machine, in the files and credential helpers that docker and podman use too.
//!
//! ```text
//!   read:   REGISTRY_AUTH_FILE > containers/auth.json > docker's config.json   (credHelpers > credsStore > auths)
//!   write:  the first of them with a login for the registry, else docker's config.json
//! ```
//!
//! A login for a registry may be there under several keys, in files and in the helper programs that they name.

mod files;
mod helper_program;
mod keys;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use crisp_image_service::Reference;
use crisp_proto::runtime::v1::AuthConfig;
use serde_json::{Value, json};

use self::keys::{key, keys};

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
            let Some(file) = files::read(path)? else { continue };
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
        // As they are read.
        if let Some(helper) = files::helper(&file, &keys) {
            helper_program::store(&helper, &key, &keys, username, password).await?;
            // What the file has is read when the helper fails.
            if files::remove_logins(&mut file, &keys) {
                files::write(path, &file)?;
            }
            return Ok(format!("docker-credential-{helper}"));
        }
        files::set_login(&mut file, &key, &keys, username, password);
        files::write(path, &file)?;
        Ok(path.display().to_string())
    }

    /// The first file with a login for one of the keys, else the one for new logins.
    async fn place(&self, keys: &[String]) -> anyhow::Result<(&Path, Value)> {
        for path in &self.files {
            let Some(file) = files::read(path)? else { continue };
            if found(&file, keys).await.with_context(|| path.display().to_string())?.is_some() {
                return Ok((path, file));
            }
        }
        Ok((&self.home, files::read(&self.home)?.unwrap_or_else(|| json!({}))))
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
    let Some(mut file) = files::read(path)? else { return Ok(false) };
    let keys = keys(registry, "");
    // A helper's login hides an older one in the file.
    let is_gone = files::remove_logins(&mut file, &keys);
    if is_gone {
        files::write(path, &file)?;
    }
    let of_helper = match files::helper(&file, &keys) {
        Some(helper) => {
            helper_program::erase(&helper, &keys).await.with_context(|| path.display().to_string())?
        }
        None => false,
    };
    Ok(is_gone || of_helper)
}

async fn found(file: &Value, keys: &[String]) -> anyhow::Result<Option<AuthConfig>> {
    let of_helper = match files::helper(file, keys) {
        Some(helper) => helper_program::find(&helper, keys).await?,
        None => None,
    };
    Ok(of_helper.or_else(|| files::login(file, keys)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, chown};

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
        let file = files::read(&logins.home).unwrap().unwrap();
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
}
