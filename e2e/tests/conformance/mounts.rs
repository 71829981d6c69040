//! Volumes: folders and files of the host, images.

use std::path::{Path, PathBuf};
use std::process::Command;

use crisp_e2e::{Image, Layer, Result};
use k8s_cri::v1::{
    ContainerConfig, ContainerStatusRequest, CreateContainerRequest, ImageSpec, ImageStatusRequest,
    LinuxContainerSecurityContext, Mount, MountPropagation, StatusRequest,
};
use prost::Message as _;
use tonic::Status;

use crate::cri::{Cri, Pod, sandbox_security, secured};
use crate::newer::{self, NewerContainer, NewerMount, NewerRuntimeStatus, NewerStatusResponse};

promises! {
    a_folder_of_the_host_is_mounted: Cri, ["ContainerConfig.mounts", "Mount.container_path", "Mount.host_path"],
        "A folder of the host is in the container, and what either writes the other sees";
    a_file_of_the_host_is_mounted: Kubernetes, ["Mount.host_path"],
        "A single file of the host is in the container";
    a_volume_is_shared_in_the_pod: Kubernetes, ["Mount.host_path"],
        "Containers of a pod that mount the same volume see the same files";
    a_symbolic_link_is_followed: Cri, ["Mount.host_path"],
        "Of a host path that is a symbolic link its target is mounted";
    a_missing_host_path_is_an_error: Cri, ["Mount.host_path"],
        "A host path that does not exist is an error and is not made",
        crisp: "a path that does not exist was mounted",
        containerd: "a path that does not exist was mounted";
    a_readonly_mount_is_not_written: Cri, ["Mount.readonly"],
        "A read-only mount cannot be written, another can";
    mounts_are_ordered_by_path: Kubernetes, ["ContainerConfig.mounts"],
        "A mount below another is on top of it in whatever order they are listed";
    a_mount_over_a_file_of_the_image: Kubernetes, ["Mount.container_path"],
        "A mount covers what the image has at its path, also through the image's symbolic link, inside the container";
    private_mounts_do_not_travel: Cri, ["Mount.propagation"],
        "With private propagation, what the host mounts later is not in the container";
    host_to_container_mounts_travel_in: Cri, ["Mount.propagation"],
        "With HostToContainer propagation, what the host mounts later is in the container";
    bidirectional_mounts_travel_out: Cri, ["Mount.propagation"],
        "With Bidirectional propagation, what a privileged container mounts is on the host";
    read_only_covers_submounts_when_recursive: Cri, ["Mount.recursive_read_only",
        "RuntimeHandlerFeatures.recursive_read_only_mounts"],
        "A recursive read-only mount is read-only with all that is mounted below it, where the handler says that it can";
    recursive_read_only_needs_read_only: Cri, ["Mount.recursive_read_only"],
        "A recursive read-only mount that is not read-only, or not private, is refused";
    a_containers_status_has_its_mounts: Cri, ["ContainerStatus.mounts"],
        "A container's status has its mounts";
    relabelling_needs_no_selinux: Kubernetes, ["Mount.selinux_relabel"],
        "Where the host has no SELinux a mount to be relabelled is mounted all the same";
    an_image_is_mounted: Kubernetes, ["Mount.image"],
        "An image is a volume: its files are there, and cannot be written";
    a_folder_of_an_image_is_mounted: Kubernetes, ["Mount.image_sub_path"],
        "Of an image's sub path that folder alone is mounted; a missing one is refused";
    a_mounted_image_is_named_by_its_digest: Cri, ["Mount.image", "ImageSpec.image_ref"],
        "A container's status names each mounted image as it was requested, and by its digest";
    mount_options_apply: Cri, ["Mount.mount_options", "RuntimeFeatures.mount_options"],
        "Mount options such as noexec apply where the status says that the runtime has them",
        containerd: "the status does not say that there are mount options";
}

/// A writable mount.
pub fn bind(host: &Path, container: &str) -> Mount {
    Mount { host_path: host.display().to_string(), container_path: container.into(), ..Default::default() }
}

fn with(mut config: ContainerConfig, mounts: &[Mount]) -> ContainerConfig {
    config.mounts = mounts.to_vec();
    config
}

async fn a_folder_of_the_host_is_mounted(cri: &mut Cri) -> Result<()> {
    let folder = cri.new_folder()?;
    std::fs::write(folder.join("from-host"), "host\n")?;
    let config =
        with(cri.shell("cat /v/from-host; echo container > /v/from-container"), &[bind(&folder, "/v")]);
    assert_eq!(cri.output(&config).await?, "host\n");
    assert_eq!(std::fs::read_to_string(folder.join("from-container"))?, "container\n");
    Ok(())
}

async fn a_file_of_the_host_is_mounted(cri: &mut Cri) -> Result<()> {
    let file = cri.new_folder()?.join("file");
    std::fs::write(&file, "one file\n")?;
    let config = with(cri.shell("cat /etc/one; echo more >> /etc/one"), &[bind(&file, "/etc/one")]);
    assert_eq!(cri.output(&config).await?, "one file\n");
    assert_eq!(std::fs::read_to_string(file)?, "one file\nmore\n");
    Ok(())
}

async fn a_volume_is_shared_in_the_pod(cri: &mut Cri) -> Result<()> {
    let folder = cri.new_folder()?;
    let pod = cri.pod().await?;
    let first = with(cri.shell("echo shared > /v/note"), &[bind(&folder, "/v")]);
    cri.output_in(&pod, &first).await?;
    let second = with(cri.shell("cat /other/note"), &[bind(&folder, "/other")]);
    assert_eq!(cri.output_in(&pod, &second).await?, "shared\n");
    Ok(())
}

async fn a_symbolic_link_is_followed(cri: &mut Cri) -> Result<()> {
    let folder = cri.new_folder()?;
    std::fs::create_dir(folder.join("real"))?;
    std::fs::write(folder.join("real/file"), "real\n")?;
    std::os::unix::fs::symlink(folder.join("real"), folder.join("link"))?;
    let config = with(cri.shell("cat /v/file"), &[bind(&folder.join("link"), "/v")]);
    assert_eq!(cri.output(&config).await?, "real\n");
    Ok(())
}

async fn a_missing_host_path_is_an_error(cri: &mut Cri) -> Result<()> {
    let missing = cri.new_folder()?.join("no-such-folder");
    let config = with(cri.shell("true"), &[bind(&missing, "/v")]);
    let pod = cri.pod().await?;
    let refused = cri.launch(&pod, &config).await.err().ok_or("a path that does not exist was mounted")?;
    crisp_e2e::says(&refused, &["no-such-folder"]);
    assert!(!missing.exists());
    Ok(())
}

async fn a_readonly_mount_is_not_written(cri: &mut Cri) -> Result<()> {
    let folder = cri.new_folder()?;
    let readonly = Mount { readonly: true, ..bind(&folder, "/ro") };
    let line = "touch /ro/x 2>/dev/null || echo sealed; touch /rw/y && echo written";
    let config = with(cri.shell(line), &[readonly, bind(&folder, "/rw")]);
    assert_eq!(cri.output(&config).await?, "sealed\nwritten\n");
    Ok(())
}

async fn mounts_are_ordered_by_path(cri: &mut Cri) -> Result<()> {
    let (outer, inner) = (cri.new_folder()?, cri.new_folder()?);
    std::fs::create_dir(outer.join("sub"))?;
    std::fs::write(outer.join("file"), "outer\n")?;
    std::fs::write(inner.join("file"), "inner\n")?;
    let mounts = [bind(&inner, "/v/sub"), bind(&outer, "/v")];
    let config = with(cri.shell("cat /v/file /v/sub/file"), &mounts);
    assert_eq!(cri.output(&config).await?, "outer\ninner\n");
    Ok(())
}

async fn a_mount_over_a_file_of_the_image(cri: &mut Cri) -> Result<()> {
    let layer = Layer::new().symlink("link", "/target").folder("target/", 0o755);
    let image = cri.image(&Image::busybox().layer(layer).build()).await?;
    let folder = cri.new_folder()?;
    std::fs::write(folder.join("file"), "of the host\n")?;
    let mounts = [bind(&folder, "/link"), bind(&folder.join("file"), "/etc/passwd")];
    let mut config = with(cri.shell("cat /target/file /etc/passwd"), &mounts);
    config.image = Some(ImageSpec { image, ..Default::default() });
    assert_eq!(cri.output(&config).await?, "of the host\nof the host\n");
    assert!(!Path::new("/target").exists());
    Ok(())
}

/// A folder of the host with shared mounts; dropping it unmounts them.
struct Shared(PathBuf);

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

impl Shared {
    fn new(cri: &Cri) -> Result<Self> {
        let folder = cri.new_folder()?;
        run("mount", &["-t", "tmpfs", "shared", &folder.display().to_string()])?;
        run("mount", &["--make-shared", &folder.display().to_string()])?;
        std::fs::create_dir(folder.join("sub"))?;
        Ok(Self(folder))
    }

    fn mount_below(&self) -> Result<()> {
        run("mount", &["-t", "tmpfs", "below", &self.0.join("sub").display().to_string()])?;
        Ok(std::fs::write(self.0.join("sub/late"), "late\n")?)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--recursive", &self.0.display().to_string()]).output();
    }
}

async fn with_propagation(cri: &mut Cri, shared: &Shared, propagation: MountPropagation) -> Result<String> {
    let mount = Mount { propagation: propagation.into(), ..bind(&shared.0, "/v") };
    let config = with(cri.shell("exec sleep 1000"), &[mount]);
    let (_pod, id) = cri.running_as(&config).await?;
    shared.mount_below()?;
    cri.sh(&id, "cat /v/sub/late || true").await
}

async fn private_mounts_do_not_travel(cri: &mut Cri) -> Result<()> {
    let shared = Shared::new(cri)?;
    let seen = with_propagation(cri, &shared, MountPropagation::PropagationPrivate).await?;
    assert_eq!(seen, "");
    Ok(())
}

async fn host_to_container_mounts_travel_in(cri: &mut Cri) -> Result<()> {
    let shared = Shared::new(cri)?;
    let seen = with_propagation(cri, &shared, MountPropagation::PropagationHostToContainer).await?;
    assert_eq!(seen, "late\n");
    Ok(())
}

/// A pod that accepts privileged containers.
pub async fn privileged_pod(cri: &mut Cri) -> Result<Pod> {
    let mut config = cri.sandbox();
    sandbox_security(&mut config).privileged = true;
    Ok(cri.run(&config).await?)
}

async fn bidirectional_mounts_travel_out(cri: &mut Cri) -> Result<()> {
    let shared = Shared::new(cri)?;
    let pod = privileged_pod(cri).await?;
    let mount =
        Mount { propagation: MountPropagation::PropagationBidirectional.into(), ..bind(&shared.0, "/v") };
    let line = "mount -t tmpfs inner /v/sub && echo inside > /v/sub/file && exec sleep 1000";
    let context = LinuxContainerSecurityContext { privileged: true, ..Default::default() };
    let config = secured(with(cri.shell(line), &[mount]), context);
    let id = cri.launch(&pod, &config).await?;
    cri.until(&id, "test -s /v/sub/file").await?;
    assert_eq!(std::fs::read_to_string(shared.0.join("sub/file"))?, "inside\n");
    Ok(())
}

async fn read_only_covers_submounts_when_recursive(cri: &mut Cri) -> Result<()> {
    let handlers = cri.client.runtime.status(StatusRequest::default()).await?.into_inner().runtime_handlers;
    let default = handlers.into_iter().find(|handler| handler.name.is_empty()).ok_or("no default handler")?;
    let shared = Shared::new(cri)?;
    shared.mount_below()?;
    let recursive = Mount { readonly: true, recursive_read_only: true, ..bind(&shared.0, "/all") };
    let line = "touch /all/x 2>/dev/null || echo sealed; touch /all/sub/x 2>/dev/null || echo sealed below; \
        touch /one/x 2>/dev/null || echo sealed; touch /one/sub/x && echo open below";
    let plain = Mount { readonly: true, ..bind(&shared.0, "/one") };
    let config = with(cri.shell(line), &[recursive, plain]);
    let pod = cri.pod().await?;
    if default.features.is_some_and(|features| features.recursive_read_only_mounts) {
        assert_eq!(cri.output_in(&pod, &config).await?, "sealed\nsealed below\nsealed\nopen below\n");
    } else {
        assert!(cri.create(&pod, &config).await.is_err());
    }
    Ok(())
}

async fn recursive_read_only_needs_read_only(cri: &mut Cri) -> Result<()> {
    let folder = cri.new_folder()?;
    let pod = cri.pod().await?;
    let recursive = Mount { recursive_read_only: true, ..bind(&folder, "/v") };
    let travelling = Mount {
        readonly: true,
        propagation: MountPropagation::PropagationHostToContainer.into(),
        ..recursive.clone()
    };
    for mount in [recursive, travelling] {
        let config = with(cri.shell("true"), &[mount]);
        assert!(cri.launch(&pod, &config).await.is_err());
    }
    Ok(())
}

async fn a_containers_status_has_its_mounts(cri: &mut Cri) -> Result<()> {
    let shared = Shared::new(cri)?;
    let travelling =
        Mount { propagation: MountPropagation::PropagationHostToContainer.into(), ..bind(&shared.0, "/b") };
    let mounts = [Mount { readonly: true, ..bind(&shared.0, "/a") }, travelling];
    let config = with(cri.shell("true"), &mounts);
    let pod = cri.pod().await?;
    let id = cri.create(&pod, &config).await?;
    let status = cri.client.status(&id).await?;
    for mount in &mounts {
        assert!(status.mounts.contains(mount), "{mount:?} of {:?}", status.mounts);
    }
    Ok(())
}

async fn relabelling_needs_no_selinux(cri: &mut Cri) -> Result<()> {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        crisp_skip::unsupported!(Without("SELinux"));
    }
    let folder = cri.new_folder()?;
    let mount = Mount { selinux_relabel: true, ..bind(&folder, "/v") };
    let config = with(cri.shell("echo there > /v/file"), &[mount]);
    cri.output(&config).await?;
    assert_eq!(std::fs::read_to_string(folder.join("file"))?, "there\n");
    Ok(())
}

/// An image with folders, and its reference.
async fn volume(cri: &mut Cri) -> Result<ImageSpec> {
    let layer = Layer::new().folder("models/", 0o755).file("models/one", 0o644, b"weights\n");
    let image = Image::new().layer(layer).layer(Layer::new().file("top", 0o644, b"top\n")).build();
    Ok(ImageSpec { image: cri.image(&image).await?, ..Default::default() })
}

async fn an_image_is_mounted(cri: &mut Cri) -> Result<()> {
    let image = Some(volume(cri).await?);
    let mount = Mount { container_path: "/v".into(), image, readonly: true, ..Default::default() };
    let line = "cat /v/top /v/models/one; touch /v/x 2>/dev/null || echo sealed";
    let config = with(cri.shell(line), &[mount]);
    assert_eq!(cri.output(&config).await?, "top\nweights\nsealed\n");
    Ok(())
}

/// Creates and starts a container with a mount that has fields unknown to the client.
async fn launch(
    cri: &mut Cri,
    pod: &Pod,
    config: &ContainerConfig,
    mount: NewerMount,
) -> Result<String, Status> {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(config.clone()),
        sandbox_config: Some(pod.config.clone()),
    };
    let newer_fields = NewerContainer { mounts: vec![mount], ..Default::default() };
    let id = newer::create(&cri.client, &request, newer_fields).await?;
    cri.client.start(&id).await?;
    Ok(id)
}

async fn a_folder_of_an_image_is_mounted(cri: &mut Cri) -> Result<()> {
    let image = Some(volume(cri).await?);
    let below = |path: &str| NewerMount {
        container_path: "/v".into(),
        readonly: true,
        image: image.clone(),
        image_sub_path: path.into(),
        ..Default::default()
    };
    let pod = cri.pod().await?;
    let config = cri.shell("exec sleep 1000");
    let id = launch(cri, &pod, &config, below("models")).await?;
    assert_eq!(cri.sh(&id, "ls /v; cat /v/one").await?, "one\nweights\n");
    let config = cri.shell("true");
    assert!(launch(cri, &pod, &config, below("no-such-folder")).await.is_err());
    Ok(())
}

async fn a_mounted_image_is_named_by_its_digest(cri: &mut Cri) -> Result<()> {
    let image = volume(cri).await?;
    let request = ImageStatusRequest { image: Some(image.clone()), verbose: false };
    let known = cri.client.images.image_status(request).await?.into_inner().image.ok_or("no image")?;
    let host = Mount { container_path: "/a".into(), host_path: "/".into(), ..Default::default() };
    let of_image = Mount {
        container_path: "/v".into(),
        image: Some(image.clone()),
        readonly: true,
        ..Default::default()
    };
    let pod = cri.pod().await?;
    let id = cri.create(&pod, &with(cri.shell("true"), &[host, of_image])).await?;
    let request = ContainerStatusRequest { container_id: id, verbose: false };
    let answer: NewerStatusResponse =
        newer::call(&cri.client, "ContainerStatus", request.encode_to_vec()).await?;
    let mounts = answer.status.ok_or("no status")?.mounts;
    assert_eq!(mounts.iter().filter(|mount| mount.image.is_some()).count(), 1);
    let mounted = mounts.into_iter().find_map(|mount| mount.image).ok_or("no image")?;
    assert_eq!(mounted.image, image.image);
    assert!(known.repo_digests.contains(&mounted.image_ref), "{} of {known:?}", mounted.image_ref);
    Ok(())
}

async fn mount_options_apply(cri: &mut Cri) -> Result<()> {
    let status: NewerRuntimeStatus = newer::call(&cri.client, "Status", Vec::new()).await?;
    if !status.features.is_some_and(|features| features.mount_options) {
        return Err("the status does not say that there are mount options".into());
    }
    let folder = cri.new_folder()?;
    std::fs::copy("/bin/busybox", folder.join("echo"))?;
    let mount = NewerMount {
        container_path: "/v".into(),
        host_path: folder.display().to_string(),
        mount_options: vec!["noexec".into()],
        ..Default::default()
    };
    let pod = cri.pod().await?;
    let config = cri.shell("exec sleep 1000");
    let id = launch(cri, &pod, &config, mount).await?;
    assert_eq!(cri.sh(&id, "/v/echo runs 2>/dev/null || echo refused").await?, "refused\n");
    Ok(())
}
