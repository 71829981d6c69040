//! The users of named volumes: containers by their mounts, and the pods that a server supervises by their
//! documents. Such a pod has no container while it waits for its next start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use crisp_proto::runtime::v1::ContainerStatusRequest;
use tonic::Code;

use crate::cli::Client;
use crate::cli::client::refused;
use crate::cli::names::{Names, container_name};
use crate::run::supervise::record::read_all;
use crate::run::volumes::mount_table::{self, Mount, locate};
use crate::server::layout;

/// The users of all volumes.
#[derive(Debug, Default)]
pub struct Users {
    /// Names of containers, and of pods without one, by the name of the volume.
    by_volume: BTreeMap<String, Vec<String>>,
    /// Why the list may be incomplete.
    unreadable: Option<String>,
}

impl Users {
    /// Requests the mounts of all containers, and reads the records of supervised pods below `root`.
    ///
    /// # Errors
    /// The server does not give the mounts of a container, or the records cannot be listed: without them, a
    /// volume in use would count as unused.
    pub async fn load(client: &mut Client, root: &Path, volumes: &Path) -> anyhow::Result<Self> {
        let mut users = Self::default();
        let mut mounts = Vec::new();
        let names = Names::load(client).await?;
        for container in &names.containers {
            let request = ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
            let reply = match client.runtime.container_status(request).await {
                Ok(reply) => reply.into_inner(),
                // A container that was removed meanwhile uses no volume.
                Err(status) if status.code() == Code::NotFound => continue,
                Err(status) => return Err(refused(status)).context("what uses volumes is not known"),
            };
            let user = format!("{}/{}", names.pod_name(&container.pod_sandbox_id), container_name(container));
            let paths = reply.status.unwrap_or_default().mounts.into_iter().map(|mount| mount.host_path);
            mounts.extend(paths.map(|path| (user.clone(), path)));
        }
        // After the containers: it has the mounts of each of them.
        let table = mount_table::read().context("the mount table")?;
        let places = Places { root, real_root: real(root), volumes, table };
        for (user, path) in mounts {
            if let Some(volume) = places.volume_of(Path::new(&path)) {
                users.by_volume.entry(volume).or_default().push(user);
            }
        }
        // After the containers: a pod that began meanwhile has its record.
        users.add_pods(root, volumes)?;
        Ok(users)
    }

    fn add_pods(&mut self, root: &Path, volumes: &Path) -> anyhow::Result<()> {
        let pods = layout::supervised_pods(root);
        for (uid, record) in read_all(&pods).with_context(|| pods.display().to_string())? {
            match record {
                Ok(record) => {
                    let (namespace, name) = record.name();
                    let folders = record.named_volumes(volumes);
                    for volume in folders.iter().filter_map(|folder| name_below(volumes, folder)) {
                        let users = self.by_volume.entry(volume).or_default();
                        if !users.iter().any(|user| user.starts_with(&format!("{name}/"))) {
                            users.push(format!("pod {namespace}/{name}"));
                        }
                    }
                }
                // It was removed meanwhile.
                Err(error) if error.is_missing() => {}
                Err(error) => {
                    self.unreadable = Some(format!(
                        "the volumes of the standalone pod {uid} are not known, `crisp down {uid}` removes it: {error}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Names of the containers and pods that use the volume.
    pub fn of(&self, volume: &str) -> &[String] {
        self.by_volume.get(volume).map_or(&[], Vec::as_slice)
    }

    /// # Errors
    /// Not all users are known: no volume may be removed.
    pub fn complete(&self) -> anyhow::Result<()> {
        match &self.unreadable {
            Some(reason) => bail!("{reason}"),
            None => Ok(()),
        }
    }
}

/// For finding a volume by a path in it.
struct Places<'a> {
    /// As the server has it: it may be a link, and mounts have their own paths.
    root: &'a Path,
    real_root: PathBuf,
    volumes: &'a Path,
    table: Vec<Mount>,
}

impl Places<'_> {
    /// The volume that a path of the host is in, by its name or by a mount of a part of it.
    fn volume_of(&self, host_path: &Path) -> Option<String> {
        if let Some(name) = name_below(self.volumes, host_path) {
            return Some(name);
        }
        // Only the root is resolved: a path on a dead network file system would hang.
        let host_path = match host_path.strip_prefix(self.root) {
            Ok(below) => self.real_root.join(below),
            Err(_) => host_path.to_owned(),
        };
        let folder = locate(&self.table, &real(self.volumes))?;
        let there = locate(&self.table, &host_path)?;
        if there.device != folder.device {
            return None;
        }
        name_below(&folder.path, &there.path)
    }
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn name_below(volumes: &Path, path: &Path) -> Option<String> {
    let below: PathBuf = path.strip_prefix(volumes).ok()?.components().take(1).collect();
    (!below.as_os_str().is_empty()).then(|| below.to_string_lossy().into_owned())
}

#[cfg(test)]
impl Users {
    /// One user of one volume.
    pub fn one(volume: &str, user: &str) -> Self {
        Self { by_volume: BTreeMap::from([(volume.to_owned(), vec![user.to_owned()])]), unreadable: None }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crisp_proto::runtime::v1::{Container, ListContainersResponse, ListPodSandboxResponse};
    use serde_json::json;
    use tonic::Status;

    use super::*;
    use crate::cli::tests_server::{Reply, client};
    use crate::run::supervise::record::PodRecord;

    #[test]
    fn a_pod_without_containers_uses_its_volumes() {
        let root = tempfile::tempdir().unwrap();
        let volumes = layout::named_volumes(root.path());
        let document = json!({ "kind": "Pod", "metadata": {"name": "db"},
            "spec": { "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}] } });
        let record = PodRecord {
            uid: "u1".into(),
            document,
            objects: Vec::new(),
            source: "p.yaml".into(),
            is_created: false,
        };
        let pods = layout::supervised_pods(root.path());
        record.write(&pods).unwrap();
        let mut users = Users::default();
        users.add_pods(root.path(), &volumes).unwrap();
        assert_eq!(users.of("data"), ["pod default/db"]);
        assert!(users.of("other").is_empty() && users.complete().is_ok());
        fs::write(layout::supervised_record(&pods, "u2"), "{").unwrap();
        users.add_pods(root.path(), &volumes).unwrap();
        assert!(users.complete().unwrap_err().to_string().contains("crisp down u2"));
    }

    /// A server with one container, whose status it refuses.
    async fn load_without_status(refusal: Status) -> anyhow::Result<Users> {
        let root = tempfile::tempdir().unwrap();
        let mut client = client(move |method| match method {
            "ListContainers" => Reply::Containers(ListContainersResponse {
                containers: vec![Container { id: "a".into(), ..Container::default() }],
            }),
            "ListPodSandbox" => Reply::Pods(ListPodSandboxResponse::default()),
            _ => Reply::Refusal(refusal.clone()),
        })
        .await;
        Users::load(&mut client, root.path(), &layout::named_volumes(root.path())).await
    }

    #[tokio::test]
    async fn volume_prune_removes_nothing_when_users_are_not_known() {
        let error = load_without_status(Status::unavailable("restarts")).await.unwrap_err();
        assert!(format!("{error:#}").contains("what uses volumes is not known"), "{error:#}");
        assert!(load_without_status(Status::not_found("a")).await.is_ok());
    }

    #[test]
    fn a_part_of_a_volume_is_found_below_a_root_that_is_a_link() {
        crisp_skip::needs!("mount");
        let folder = tempfile::tempdir().unwrap();
        let (disk, root) = (folder.path().join("disk"), folder.path().join("root"));
        std::os::unix::fs::symlink(&disk, &root).unwrap();
        let volumes = layout::named_volumes(&root);
        let (real_part, part) = (disk.join("run/u1/sub-paths/db/0"), root.join("run/u1/sub-paths/db/0"));
        fs::create_dir_all(&real_part).unwrap();
        let data = volumes.join("data/a");
        fs::create_dir_all(&data).unwrap();
        rustix::mount::mount_bind(&data, &real_part).unwrap();
        let table = mount_table::read();
        rustix::mount::unmount(&real_part, rustix::mount::UnmountFlags::DETACH).unwrap();
        let places = Places { root: &root, real_root: real(&root), volumes: &volumes, table: table.unwrap() };
        assert_eq!(places.volume_of(&part).as_deref(), Some("data"));
        assert_eq!(places.volume_of(&root.join("run/u1")), None);
    }

    #[test]
    fn names_are_those_of_the_volumes_folder_alone() {
        let (root, volumes) = (Path::new("/"), Path::new("/v"));
        let places = Places { root, real_root: root.to_owned(), volumes, table: Vec::new() };
        let of = |path: &str| places.volume_of(Path::new(path));
        assert_eq!(of("/v/data/a/b").as_deref(), Some("data"));
        assert_eq!((of("/v"), of("/w/data")), (None, None));
    }
}
