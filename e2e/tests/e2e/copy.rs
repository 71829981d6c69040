//! `crisp cp`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crisp_e2e::machine::crisp;
use crisp_e2e::{Lab, Result, needs, request};
use k8s_cri::v1::{LinuxContainerConfig, LinuxContainerSecurityContext, Mount, RemoveContainerRequest};

/// A folder on this machine, and the command line of a lab.
pub struct Files {
    here: tempfile::TempDir,
}

impl Files {
    pub fn new() -> Result<Self> {
        Ok(Self { here: tempfile::tempdir()? })
    }

    pub fn path(&self, name: &str) -> String {
        self.here.path().join(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.here.path().join(name);
        std::fs::create_dir_all(path.parent().ok_or("no folder")?)?;
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    pub fn read(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.here.path().join(name))?)
    }
}

/// Runs `crisp cp` and returns its standard output, or its error output as the error.
pub fn cp(lab: &Lab, args: &[&str]) -> Result<String> {
    let output = lab.machine.crisp(&[&["cp"], args].concat())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(String::from_utf8(output.stdout)?) } else { Err(errors.into()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_in_and_out_of_containers_that_run_and_that_do_not() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("copy").await?;
    let files = Files::new()?;
    let file = files.write("dir/file", "from here")?;
    let mut client = lab.machine.client().await?;
    // Copied before the start; the container's own process sees the file.
    let created = client.create(&pod, &lab.shell("cat /tmp/dir/file; sleep 100"), &sandbox).await?;
    let inside = |path: &str| format!("{created}:{path}");
    cp(&lab, &[&files.path("dir"), &inside("/tmp")])?;
    client.start(&created).await?;
    cp(&lab, &[&file, &inside("/tmp/named")])?;
    let exec = client.exec(&created, &["cat", "/tmp/dir/file", "/tmp/named"]).await?;
    assert_eq!(String::from_utf8(exec.stdout.to_vec())?, "from herefrom here");
    // Neither in the container nor for it is an archiver needed.
    let change = "echo changed > /tmp/dir/file; ln -s /etc/passwd /tmp/dir/link; rm /bin/tar";
    client.exec(&created, &["sh", "-c", change]).await?;
    cp(&lab, &[&inside("/tmp/dir"), &files.path("out")])?;
    assert_eq!(files.read("out/file")?, "changed\n");
    assert_eq!(std::fs::read_link(files.path("out/link"))?, Path::new("/etc/passwd"));
    let archive = cp(&lab, &[&inside("/tmp/dir/file"), "-"])?;
    assert!(archive.starts_with("file\0") && archive.contains("changed\n"));
    let missing = cp(&lab, &[&inside("/no/such"), &files.path("none")]).unwrap_err().to_string();
    assert!(missing.contains("/no/such: no such file or directory"), "{missing}");
    lab.machine.crisp(&["stop", "--timeout", "0", &created])?;
    cp(&lab, &[&file, &inside("/tmp/after")])?;
    cp(&lab, &[&inside("/tmp/after"), &files.path("after")])?;
    assert_eq!(files.read("after")?, "from here");
    lab.close().await
}

/// Removing a mount point in another mount namespace would also remove the mount.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_in_a_container_stays_mounted() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("mounted").await?;
    let files = Files::new()?;
    let mut config = lab.shell("sleep 100");
    let mount = |name: &str, readonly| -> Result<Mount> {
        let host_path = files.write(name, "mounted")?;
        Ok(Mount { container_path: format!("/mnt/{name}"), host_path, readonly, ..Default::default() })
    };
    config.mounts = vec![mount("fixed", true)?, mount("free", false)?];
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    let inside = |path: &str| format!("{id}:{path}");
    let mut client = lab.machine.client().await?;
    let mut print = async |path: &str| -> Result<String> {
        Ok(String::from_utf8(client.exec(&id, &["cat", path]).await?.stdout.to_vec())?)
    };
    let mounts = print("/proc/self/mountinfo").await?;
    assert!(mounts.contains("/mnt/fixed") && mounts.contains("/etc/hosts"), "{mounts}");
    let new = files.write("new", "new content")?;
    let refused = cp(&lab, &[&new, &inside("/mnt/fixed")]).unwrap_err().to_string();
    assert!(refused.contains("/mnt/fixed: Read-only file system"), "{refused}");
    cp(&lab, &[&new, &inside("/mnt/free")])?;
    cp(&lab, &[&new, &inside("/etc/hosts")])?;
    assert_eq!(print("/mnt/fixed").await?, "mounted");
    assert_eq!((files.read("fixed")?, files.read("free")?), ("mounted".into(), "new content".into()));
    assert_eq!(print("/etc/hosts").await?, "new content");
    std::os::unix::fs::symlink("x", files.path("link"))?;
    let refused = cp(&lab, &[&files.path("link"), &inside("/mnt/free")]).unwrap_err().to_string();
    assert!(refused.contains("/mnt/free is mounted"), "{refused}");
    assert_eq!(print("/proc/self/mountinfo").await?, mounts);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_container_is_copied_without_the_files_of_the_kernel() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("whole").await?;
    // Processes start and end during the copy.
    let id = lab.client.launch(&pod, &lab.shell("while true; do true & sleep 0.01; done"), &sandbox).await?;
    let files = Files::new()?;
    cp(&lab, &[&format!("{id}:/"), &files.path("out")])?;
    assert!(files.read("out/etc/passwd")?.contains("root"));
    for name in ["proc", "sys"] {
        assert_eq!(std::fs::read_dir(files.path("out").clone() + "/" + name)?.count(), 0, "{name}");
    }
    cp(&lab, &[&format!("{id}:/proc/1/status"), &files.path("status")])?;
    assert!(files.read("status")?.contains("Name:"));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_keeps_neither_a_removal_waiting_nor_a_read_only_root_writable() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("slow").await?;
    let files = Files::new()?;
    let mut config = lab.shell("true");
    let security = LinuxContainerSecurityContext { readonly_rootfs: true, ..Default::default() };
    config.linux = Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() });
    config.metadata.as_mut().ok_or("no metadata")?.name = "fixed".into();
    let fixed = lab.client.create(&pod, &config, &sandbox).await?;
    let refused = cp(&lab, &[&files.write("x", "x")?, &format!("{fixed}:/tmp")]).unwrap_err().to_string();
    assert!(refused.contains("read-only"), "{refused}");
    let id = lab.client.create(&pod, &lab.shell("true"), &sandbox).await?;
    let listen = format!("unix://{}", lab.machine.socket().display());
    let begin = |from: &str, to: &str| {
        let mut command = Command::new(crisp());
        command.args(["cp", "--listen", &listen, from, to]).stderr(Stdio::piped());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    };
    // A copy whose output is not read, and one that gets no input.
    let mut out = begin(&format!("{id}:/bin"), "-")?;
    let into = begin("-", &format!("{id}:/tmp"))?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(out.try_wait()?.is_none(), "it waits for its output to be taken");
    let remove = lab.client.runtime.remove_container(RemoveContainerRequest { container_id: id });
    tokio::time::timeout(Duration::from_secs(10), remove).await.map_err(|_| "the removal waits")??;
    let said = String::from_utf8(into.wait_with_output()?.stderr)?;
    assert!(said.contains("is being removed"), "{said}");
    out.kill()?;
    out.wait()?;
    lab.close().await
}

/// Files that are copied into such a pod belong to its root, not to the host's. Files that are copied out
/// have the ids that the pod sees.
#[tokio::test(flavor = "multi_thread")]
async fn files_have_the_owners_that_a_pod_with_a_user_namespace_sees() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, security) = request::pod_with_own_users(&lab.machine, "mapped");
    let pod = lab.client.run_pod(&sandbox).await?;
    let files = Files::new()?;
    files.write("dir/file", "x")?;
    std::os::unix::fs::chown(files.path("dir/file"), Some(1000), Some(1001))?;
    let volume = files.path("volume");
    std::fs::create_dir(&volume)?;
    let ids = request::own_users();
    let mut config = lab.shell("sleep 1000");
    config.linux = Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() });
    config.mounts = vec![Mount {
        container_path: "/volume".into(),
        host_path: volume.clone(),
        uid_mappings: ids.uids,
        gid_mappings: ids.gids,
        ..Default::default()
    }];
    let id = lab.client.create(&pod, &config, &sandbox).await?;
    let (dir, inside) = (files.path("dir"), |path: &str| format!("{id}:{path}"));
    cp(&lab, &[&dir, &inside("/tmp/before")])?;
    cp(&lab, &["-a", &dir, &inside("/tmp/before-kept")])?;
    lab.client.start(&id).await?;
    for to in ["/tmp/running", "/volume/running"] {
        cp(&lab, &[&dir, &inside(to)])?;
        cp(&lab, &["-a", &dir, &inside(&format!("{to}-kept"))])?;
    }
    let owners = "stat -c %u:%g /tmp/before /tmp/before/file /tmp/before-kept/file /tmp/running/file \
        /tmp/running-kept/file /volume/running /volume/running/file /volume/running-kept/file";
    let exec = lab.client.exec(&id, &["sh", "-c", owners]).await?;
    let root_and_kept = ["0:0", "0:0", "1000:1001", "0:0", "1000:1001", "0:0", "0:0", "1000:1001"];
    let seen = String::from_utf8(exec.stdout.to_vec())?;
    assert!(seen.lines().eq(root_and_kept), "{seen}");
    let owner = |path: &str| -> Result<(u32, u32)> {
        let found = std::fs::metadata(path)?;
        Ok((std::os::unix::fs::MetadataExt::uid(&found), std::os::unix::fs::MetadataExt::gid(&found)))
    };
    assert_eq!(owner(&format!("{volume}/running-kept/file"))?, (1000, 1001), "as without a user namespace");
    std::os::unix::fs::chown(files.path("dir/file"), Some(70_000), Some(0))?;
    let refused = cp(&lab, &["-a", &dir, &inside("/tmp/none")]).unwrap_err().to_string();
    assert!(refused.contains("file: its owner 70000:0 does not exist in the user namespace"), "{refused}");
    for (from, to) in [("/tmp/before-kept/file", "1"), ("/volume/running-kept/file", "2")] {
        cp(&lab, &["-a", &inside(from), &files.path(to)])?;
        assert_eq!(owner(&files.path(to))?, (1000, 1001), "{from}");
    }
    lab.machine.crisp(&["stop", "--timeout", "0", &id])?;
    for (from, to, expected) in [("/tmp/running-kept/file", "3", (1000, 1001)), ("/bin/busybox", "4", (0, 0))]
    {
        cp(&lab, &["-a", &inside(from), &files.path(to)])?;
        assert_eq!(owner(&files.path(to))?, expected, "{from}");
    }
    lab.close().await
}
