//! `crisp volume`: manages named volumes on this machine, which are folders below the server's root.
//!
//! ```text
//!   <root>/standalone/volumes/NAME     in a pod: a hostPath, or a PersistentVolumeClaim of a manifest
//!   users.rs: what uses them           mod.rs: the commands
//! ```

mod users;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use crisp_operation::record;
use crisp_proto::runtime::v1::StatusRequest;
use crisp_runtime_service::spec::copy_up;
use serde_json::{Value, json};

use self::users::Users;
use super::client::refused;
use super::each::each;
use super::listing::{Format, RowFormat};
use super::template::Template;
use super::{Client, json};
use crate::print;
use crate::run::manifest::is_dns_name;
use crate::run::volumes::folder::{make_whole, private_folder};
use crate::run::volumes::mount_table;
use crate::server::layout;
use crate::table::Table;
use crate::time::shown;

/// Characters of a name.
const LONGEST: usize = 255;

/// Make, list and remove volumes on this machine
///
/// A volume is a folder that outlives the containers that mount it. A volume that a container uses, running
/// or not, is not removed; nor is one of a pod of `crisp run -d` or `crisp up`.
#[derive(Debug, clap::Args)]
pub struct Volume {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a volume; success when it already exists
    Create {
        /// Lower-case letters, digits, '-' and '.' [default: a random one]
        name: Option<String>,
    },
    Ls(Ls),
    Inspect(Inspect),
    /// Remove volumes and their content
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove all volumes that no container uses
    Prune {
        /// Do not ask for confirmation
        #[arg(long, short)]
        force: bool,
    },
}

/// List volumes
#[derive(Debug, clap::Args)]
struct Ls {
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
    /// `table`, `json`, or a template with Name, Driver, Mountpoint, CreatedAt, Containers
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Show volumes and the containers that use them, as JSON
#[derive(Debug, clap::Args)]
struct Inspect {
    /// A template, as '{{.Mountpoint}}'
    #[arg(long, short, value_name = "TEMPLATE")]
    format: Option<String>,
    #[arg(required = true)]
    names: Vec<String>,
}

/// The disk usage of volumes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub total: usize,
    pub active: usize,
    pub bytes: u64,
    pub reclaimable: u64,
}

/// The result of a prune.
#[derive(Debug, Default)]
pub struct Pruned {
    removed: Vec<String>,
    failures: Vec<String>,
}

/// The volumes of one server.
struct Volumes {
    folder: PathBuf,
    users: Users,
}

impl Volume {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let volumes = Volumes::load(&mut client).await?;
        match self.command {
            Command::Create { name } => {
                print::line(volumes.create(name)?)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Ls(ls) => ls.run(&volumes),
            Command::Inspect(inspect) => inspect.run(&volumes),
            Command::Rm { names } => Ok(each(&names, async |name| volumes.remove(name)).await),
            Command::Prune { force } => {
                if !force {
                    bail!("this removes all volumes that no container has: say --force");
                }
                Ok(volumes.prune()?.report())
            }
        }
    }
}

impl Ls {
    fn run(self, volumes: &Volumes) -> anyhow::Result<ExitCode> {
        let format = RowFormat::parse(self.format.as_deref())?;
        let rows =
            volumes.names()?.iter().map(|name| volumes.describe(name)).collect::<anyhow::Result<Vec<_>>>()?;
        if self.quiet {
            rows.iter().try_for_each(|row| print::line(row["Name"].as_str().unwrap_or_default()))?;
        } else if !self.output.print(|| Ok(json!({ "volumes": rows })))? {
            format.print(&rows, || table(&rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Inspect {
    fn run(self, volumes: &Volumes) -> anyhow::Result<ExitCode> {
        let template = self.format.as_deref().map(Template::parse).transpose()?;
        for name in &self.names {
            let value = volumes.describe(name)?;
            match &template {
                Some(template) => writeln!(std::io::stdout(), "{}", template.render(&value)?)?,
                None => json::print(&value)?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Volumes {
    /// Requests the server's root and the mounts of its containers.
    async fn load(client: &mut Client) -> anyhow::Result<Self> {
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

    fn create(&self, name: Option<String>) -> anyhow::Result<String> {
        let name = match name {
            Some(name) => name,
            None => random_name()?,
        };
        check(&name)?;
        let path = layout::named_volume(&self.folder, &name);
        if path.is_dir() {
            return Ok(name);
        }
        if !is_mountable(&name) {
            bail!(
                "{name:?} is no name that a pod can mount: expected lower-case letters, digits, '-' and '.', or \
                 NAMESPACE_CLAIM for a claim of another namespace than default"
            );
        }
        // With the permissions of a volume that a pod makes.
        let made = private_folder(&self.folder).and_then(|()| make_whole(&path, None));
        match made {
            // A pod was faster.
            Err(_) if path.is_dir() => Ok(name),
            made => made.map(|()| name).with_context(|| path.display().to_string()),
        }
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
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
        let path = layout::named_volume(&self.folder, name);
        // A link in that folder is not a volume.
        if !fs::symlink_metadata(&path).is_ok_and(|there| there.is_dir()) {
            bail!("no volume {name:?}; `crisp volume ls` lists them all");
        }
        Ok(path)
    }

    fn describe(&self, name: &str) -> anyhow::Result<Value> {
        let path = self.find(name)?;
        let made = fs::metadata(&path).and_then(|there| there.created());
        let made = made.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let made = made.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(0));
        Ok(json!({
            "Name": name,
            "Driver": "local",
            "Scope": "local",
            "Mountpoint": path,
            "CreatedAt": shown(made),
            "Containers": self.users.of(name),
        }))
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
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

    /// Removes what is not used, and goes on after a failure.
    fn prune(&self) -> anyhow::Result<Pruned> {
        self.users.complete()?;
        let mut pruned = Pruned::default();
        for name in self.names()?.into_iter().filter(|name| self.users.of(name).is_empty()) {
            match self.remove(&name) {
                Ok(()) => pruned.removed.push(name),
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

/// Removes the volumes that neither a container nor a supervised pod uses.
///
/// # Errors
/// Not all users are known: then nothing is removed.
pub async fn prune(client: &mut Client) -> anyhow::Result<Pruned> {
    Volumes::load(client).await?.prune()
}

/// The disk usage of the volumes.
///
/// # Errors
/// The server does not report its root.
pub async fn usage(client: &mut Client) -> anyhow::Result<Usage> {
    let volumes = Volumes::load(client).await?;
    let mut usage = Usage::default();
    for name in volumes.names()? {
        let bytes = bytes_below(&layout::named_volume(&volumes.folder, &name));
        let is_used = !volumes.users.of(&name).is_empty();
        usage.total += 1;
        usage.active += usize::from(is_used);
        usage.bytes += bytes;
        usage.reclaimable += if is_used { 0 } else { bytes };
    }
    Ok(usage)
}

/// Follows no link; files that cannot be read do not count.
fn bytes_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let (mut waiting, mut bytes) = (vec![folder.to_owned()], 0);
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(there) = entry.metadata() else { continue };
            bytes += there.blocks() * 512;
            if there.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    bytes
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

fn table(rows: &[Value]) -> Table {
    let mut table = Table::new(&["DRIVER", "VOLUME NAME", "CONTAINERS"]);
    for row in rows {
        let users = row["Containers"].as_array().map_or(0, Vec::len);
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        table.row(vec![text("Driver"), text("Name"), users.to_string()]);
    }
    table
}

#[cfg(test)]
mod tests {
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
        volumes.create(Some("data".to_owned())).unwrap();
        for name in ["lost+found", ".data.new"] {
            fs::create_dir(volumes.folder.join(name)).unwrap();
        }
        assert_eq!(volumes.names().unwrap(), ["data"]);
        assert_eq!(volumes.prune().unwrap().removed, ["data"]);
        assert!(volumes.folder.join("lost+found").exists());
    }

    #[test]
    fn a_created_volume_is_for_every_user_and_for_pods() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes { folder: root.path().join("volumes"), users: Users::default() };
        for _ in 0..2 {
            volumes.create(Some("data".to_owned())).unwrap();
        }
        let mode = fs::metadata(volumes.find("data").unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
        let error = volumes.create(Some("My_data".to_owned())).unwrap_err();
        assert!(error.to_string().contains("a pod can mount"), "{error}");
        // That of a claim in a namespace.
        fs::create_dir(volumes.folder.join("shop_data")).unwrap();
        assert!(volumes.create(Some("shop_data".to_owned())).is_ok() && volumes.remove("shop_data").is_ok());
    }

    #[test]
    fn a_volume_with_a_mount_in_it_is_not_removed() {
        crisp_skip::needs!();
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes { folder: root.path().join("volumes"), users: Users::default() };
        volumes.create(Some("media".to_owned())).unwrap();
        let point = volumes.find("media").unwrap().join("films");
        fs::create_dir(&point).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &point, "tmpfs", flags, None).unwrap();
        fs::write(point.join("film"), "kept").unwrap();
        let removed = volumes.remove("media");
        let pruned = volumes.prune().unwrap();
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
            volumes.create(Some(name.to_owned())).unwrap();
        }
        fs::write(volumes.find("free").unwrap().join("file"), vec![1; 10_000]).unwrap();
        assert!(volumes.remove("used").unwrap_err().to_string().contains("pod/web"));
        assert!(volumes.remove("none").unwrap_err().to_string().contains("volume ls"));
        assert!(bytes_below(&volumes.find("free").unwrap()) >= 10_000);
        assert_eq!(volumes.prune().unwrap().removed, ["free"]);
        assert_eq!(volumes.names().unwrap(), ["used"]);
        std::os::unix::fs::symlink("/etc", volumes.folder.join("link")).unwrap();
        assert!(volumes.remove("link").is_err() && Path::new("/etc/passwd").exists());
    }
}
