//! The volumes of one server: folders, their labels, and their users.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use crisp_operation::record;
use crisp_proto::runtime::v1::StatusRequest;
use crisp_runtime_service::spec::copy_up;
use serde_json::{Value, json};

use super::users::Users;
use crate::cli::Client;
use crate::cli::client::refused;
use crate::cli::filter::{Filters, name_matches};
use crate::print;
use crate::run::manifest::is_dns_name;
use crate::run::volumes::folder::{make_labelled, private_folder};
use crate::run::volumes::labels::{self, Labels};
use crate::run::volumes::mount_table;
use crate::server::layout;
use crate::time::shown;

/// Characters of a name.
const LONGEST: usize = 255;
/// Docker's name for volumes that are folders.
const DRIVER: &str = "local";

/// The result of a prune.
#[derive(Debug, Default)]
pub struct Pruned {
    removed: Vec<String>,
    failures: Vec<String>,
}

/// The volumes of one server.
pub struct Volumes {
    folder: PathBuf,
    users: Users,
}

impl Volumes {
    /// Requests the server's root and the mounts of its containers.
    pub async fn load(client: &mut Client) -> anyhow::Result<Self> {
        let status =
            client.runtime.status(StatusRequest { verbose: true }).await.map_err(refused)?.into_inner();
        let info: Value =
            status.info.get("info").map_or(Ok(Value::Null), |info| serde_json::from_str(info))?;
        let root =
            info["root"].as_str().context("the server does not say where its root is: is it Crisp?")?;
        let folder = layout::named_volumes(Path::new(root));
        let users = Users::load(client, Path::new(root), &folder).await?;
        Ok(Self { folder, users })
    }

    /// The name of the volume, which may have been there already: then it keeps its labels.
    pub fn create(&self, name: Option<String>, labels: &Labels) -> anyhow::Result<String> {
        let name = match name {
            Some(name) => name,
            None => random_name()?,
        };
        check(&name)?;
        let path = self.path_of(&name);
        if !path.is_dir() {
            self.make(&name, &path, labels)?;
        }
        if !labels.is_empty() && labels::read(&path).ok().as_ref() != Some(labels) {
            print::warning(format_args!("crisp: the volume {name} exists already, and keeps its own labels"));
        }
        Ok(name)
    }

    fn make(&self, name: &str, path: &Path, labels: &Labels) -> anyhow::Result<()> {
        if !is_mountable(name) {
            bail!(
                "{name:?} is no name that a pod can mount: expected lower-case letters, digits, '-' and '.', or \
                 NAMESPACE_CLAIM for a claim of another namespace than default"
            );
        }
        // With the permissions of a volume that a pod makes.
        match private_folder(&self.folder).and_then(|()| make_labelled(path, None, labels)) {
            // A pod was faster.
            Err(_) if path.is_dir() => Ok(()),
            made => made.with_context(|| path.display().to_string()),
        }
    }

    pub fn names(&self) -> anyhow::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| self.folder.display().to_string())?,
        };
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
        // A disk's lost+found and a folder that a killed server left half made are no volumes.
        let mut names: Vec<String> = names.filter(|name| check(name).is_ok()).collect();
        names.sort();
        Ok(names)
    }

    fn find(&self, name: &str) -> anyhow::Result<PathBuf> {
        check(name)?;
        let path = self.path_of(name);
        // A link in that folder is not a volume.
        if !fs::symlink_metadata(&path).is_ok_and(|there| there.is_dir()) {
            bail!("no volume {name:?}; `crisp volume ls` lists them all");
        }
        Ok(path)
    }

    pub fn describe(&self, name: &str) -> anyhow::Result<Value> {
        let path = self.find(name)?;
        let made = fs::metadata(&path).and_then(|there| there.created());
        let made = made.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let made = made.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(0));
        let labels = labels::read(&path).unwrap_or_else(|error| {
            print::warning(format_args!("crisp: the labels of the volume {name}: {error}"));
            Labels::new()
        });
        Ok(json!({
            "Name": name,
            "Driver": DRIVER,
            "Scope": "local",
            "Mountpoint": path,
            "CreatedAt": shown(made),
            "Labels": labels,
            "Containers": self.users.of(name),
        }))
    }

    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.find(name)?;
        self.users.complete()?;
        let users = self.users.of(name);
        if !users.is_empty() {
            bail!("it is in use by {}: remove these first", users.join(", "));
        }
        let real = path.canonicalize().with_context(|| path.display().to_string())?;
        if let Some(point) = mount_table::points_below(&real).context("the mount table")?.first() {
            bail!("{} is a mount, and its content is not the volume's: unmount it first", point.display());
        }
        record::remove_folder(&path).with_context(|| path.display().to_string())?;
        let draft = copy_up::draft(&path);
        record::remove_folder(&draft).with_context(|| draft.display().to_string())
    }

    /// The folder of a volume of that name, if there is one.
    pub fn path_of(&self, name: &str) -> PathBuf {
        layout::named_volume(&self.folder, name)
    }

    /// Whether a container or a supervised pod uses it.
    pub fn is_used(&self, name: &str) -> bool {
        !self.users.of(name).is_empty()
    }

    /// Whether a volume passes the filters.
    ///
    /// # Errors
    /// Its labels are needed, and cannot be read.
    pub fn matches(&self, name: &str, filters: &Filters) -> anyhow::Result<bool> {
        let labels = if filters.has("label") {
            labels::read(&self.path_of(name)).with_context(|| format!("the labels of the volume {name}"))?
        } else {
            Labels::new()
        };
        Ok(filters.any("name", |wanted| name_matches(name, wanted))
            && filters.any("driver", |wanted| wanted == DRIVER)
            && filters.any("dangling", |wanted| (wanted == "true") != self.is_used(name))
            && filters.labels(|key| labels.get(key)))
    }

    /// Removes a volume, and succeeds when there is none.
    pub fn remove_if_present(&self, name: &str) -> anyhow::Result<()> {
        check(name)?;
        let is_gone = || {
            let there = fs::symlink_metadata(self.path_of(name));
            there.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        if is_gone() {
            return Ok(());
        }
        // Another command may remove it at the same time.
        self.remove(name).or_else(|error| if is_gone() { Ok(()) } else { Err(error) })
    }

    /// Removes those that pass the filters and are not used, and goes on after a failure.
    pub fn prune(&self, filters: &Filters) -> anyhow::Result<Pruned> {
        self.users.complete()?;
        let mut pruned = Pruned::default();
        for name in self.names()?.into_iter().filter(|name| !self.is_used(name)) {
            let removed = self.matches(&name, filters).and_then(|is_chosen| match is_chosen {
                true => self.remove(&name).map(|()| true),
                false => Ok(false),
            });
            match removed {
                Ok(true) => pruned.removed.push(name),
                Ok(false) => {}
                Err(error) => pruned.failures.push(format!("{name}: {error:#}")),
            }
        }
        Ok(pruned)
    }
}

impl Pruned {
    /// Prints what was removed and what was not.
    pub fn report(&self) -> ExitCode {
        // What follows is done even when the reader of the output has left.
        self.removed.iter().for_each(print::best_effort);
        for failure in &self.failures {
            print::warning(format_args!("crisp: {failure}"));
        }
        if self.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn check(name: &str) -> anyhow::Result<()> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.len() > LONGEST
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(inner)
    {
        bail!(
            "{name:?} is no name of a volume: expected a letter or digit, then letters, digits, '.', '_' and '-'"
        );
    }
    Ok(())
}

/// Whether a claim of some pod can have this volume: that of its own name, or with its namespace before it.
fn is_mountable(name: &str) -> bool {
    match name.split_once('_') {
        Some((namespace, claim)) => is_dns_name(namespace) && is_dns_name(claim),
        None => is_dns_name(name),
    }
}

fn random_name() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").context("no random name")?;
    Ok(text.trim().replace('-', ""))
}

#[cfg(test)]
mod tests {
    use super::super::usage::bytes_below;
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in ["data", "a.b_c-1", "0"] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["", "..", "a/b", ".hidden", "-x", "a b", &"a".repeat(256)] {
            assert!(check(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_folder_that_is_no_volume_is_not_listed() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes { folder: root.path().join("volumes"), users: Users::default() };
        volumes.create(Some("data".to_owned()), &Labels::new()).unwrap();
        for name in ["lost+found", ".data.new"] {
            fs::create_dir(volumes.folder.join(name)).unwrap();
        }
        assert_eq!(volumes.names().unwrap(), ["data"]);
        assert_eq!(volumes.prune(&Filters::default()).unwrap().removed, ["data"]);
        assert!(volumes.folder.join("lost+found").exists());
    }

    #[test]
    fn a_created_volume_is_for_every_user_and_for_pods() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes { folder: root.path().join("volumes"), users: Users::default() };
        for _ in 0..2 {
            volumes.create(Some("data".to_owned()), &Labels::new()).unwrap();
        }
        let mode = fs::metadata(volumes.find("data").unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
        let error = volumes.create(Some("My_data".to_owned()), &Labels::new()).unwrap_err();
        assert!(error.to_string().contains("a pod can mount"), "{error}");
        // That of a claim in a namespace.
        fs::create_dir(volumes.folder.join("shop_data")).unwrap();
        assert!(
            volumes.create(Some("shop_data".to_owned()), &Labels::new()).is_ok()
                && volumes.remove("shop_data").is_ok()
        );
    }

    #[test]
    fn a_volume_with_a_mount_in_it_is_not_removed() {
        crisp_skip::needs!();
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes { folder: root.path().join("volumes"), users: Users::default() };
        volumes.create(Some("media".to_owned()), &Labels::new()).unwrap();
        let point = volumes.find("media").unwrap().join("films");
        fs::create_dir(&point).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &point, "tmpfs", flags, None).unwrap();
        fs::write(point.join("film"), "kept").unwrap();
        let removed = volumes.remove("media");
        let pruned = volumes.prune(&Filters::default()).unwrap();
        let is_kept = point.join("film").exists();
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(removed.unwrap_err().to_string().contains("unmount it first") && is_kept);
        assert!(pruned.removed.is_empty() && pruned.failures.len() == 1);
        volumes.remove("media").unwrap();
    }

    #[test]
    fn what_a_container_has_stays() {
        let root = tempfile::tempdir().unwrap();
        let users = Users::one("used", "pod/web");
        let volumes = Volumes { folder: root.path().join("volumes"), users };
        assert!(volumes.names().unwrap().is_empty());
        for name in ["used", "free"] {
            volumes.create(Some(name.to_owned()), &Labels::new()).unwrap();
        }
        fs::write(volumes.find("free").unwrap().join("file"), vec![1; 10_000]).unwrap();
        assert!(volumes.remove("used").unwrap_err().to_string().contains("pod/web"));
        assert!(volumes.remove("none").unwrap_err().to_string().contains("volume ls"));
        assert!(bytes_below(&volumes.find("free").unwrap()) >= 10_000);
        assert_eq!(volumes.prune(&Filters::default()).unwrap().removed, ["free"]);
        assert_eq!(volumes.names().unwrap(), ["used"]);
        std::os::unix::fs::symlink("/etc", volumes.folder.join("link")).unwrap();
        assert!(volumes.remove("link").is_err() && Path::new("/etc/passwd").exists());
    }

    #[test]
    fn labels_choose_volumes_and_go_with_them() {
        crisp_skip::needs!();
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes { folder: root.path().join("volumes"), users: Users::one("used", "pod/web") };
        let labels = |text: &str| Labels::from([("app".to_owned(), text.to_owned())]);
        for (name, of) in
            [("used", labels("web")), ("web", labels("web")), ("db", labels("db")), ("plain", Labels::new())]
        {
            volumes.create(Some(name.to_owned()), &of).unwrap();
        }
        // One that is there already keeps its labels, as with docker.
        volumes.create(Some("db".to_owned()), &labels("web")).unwrap();
        assert_eq!(volumes.describe("db").unwrap()["Labels"], json!({ "app": "db" }));
        assert_eq!(volumes.names().unwrap(), ["db", "plain", "used", "web"]);
        let filters = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            Filters::parse(&texts, &["name", "driver", "label", "dangling"]).unwrap()
        };
        let meant = |texts: &[&str]| -> Vec<String> {
            let names = volumes.names().unwrap().into_iter();
            names.filter(|name| volumes.matches(name, &filters(texts)).unwrap()).collect()
        };
        assert_eq!(meant(&["label=app=web"]), ["used", "web"]);
        assert_eq!(meant(&["label=app", "dangling=true"]), ["db", "web"]);
        assert_eq!(meant(&["dangling=false"]), ["used"]);
        assert_eq!(
            (meant(&["name=b"]), meant(&["driver=nfs"])),
            (vec!["db".to_owned(), "web".to_owned()], vec![])
        );
        assert_eq!(volumes.prune(&filters(&["label=app=web"])).unwrap().removed, ["web"]);
        volumes.remove("db").unwrap();
        volumes.create(Some("db".to_owned()), &Labels::new()).unwrap();
        assert_eq!(volumes.describe("db").unwrap()["Labels"], json!({}), "those of an earlier volume");
    }

    #[test]
    fn labels_that_cannot_be_read_are_named_and_remove_nothing() {
        crisp_skip::needs!();
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes { folder: root.path().join("volumes"), users: Users::default() };
        volumes.create(Some("data".to_owned()), &Labels::new()).unwrap();
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(volumes.path_of("data"), "trusted.crisp.labels", b"{", none).unwrap();
        assert_eq!(
            volumes.describe("data").unwrap()["Labels"],
            json!({}),
            "the others are listed all the same"
        );
        let filters = Filters::parse(&["label=c".to_owned()], &["label"]).unwrap();
        let pruned = volumes.prune(&filters).unwrap();
        assert!(
            pruned.removed.is_empty() && pruned.failures[0].contains("labels of the volume data"),
            "{pruned:?}"
        );
        volumes.remove("data").unwrap();
    }

    #[test]
    fn a_volume_whose_labels_cannot_be_kept_is_not_made() {
        crisp_skip::needs!();
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes { folder: root.path().join("volumes"), users: Users::default() };
        let long = Labels::from([("a".to_owned(), "b".repeat(70_000))]);
        let error = format!("{:#}", volumes.create(Some("data".to_owned()), &long).unwrap_err());
        assert!(error.contains("too long"), "{error}");
        assert_eq!(fs::read_dir(&volumes.folder).unwrap().count(), 0);
    }

    #[test]
    fn a_removal_may_find_no_volume_but_no_bad_name() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes { folder: root.path().join("volumes"), users: Users::one("used", "pod/web") };
        volumes.create(Some("used".to_owned()), &Labels::new()).unwrap();
        volumes.remove_if_present("none").unwrap();
        assert!(volumes.remove_if_present("used").is_err() && volumes.remove_if_present("a/b").is_err());
    }
}
