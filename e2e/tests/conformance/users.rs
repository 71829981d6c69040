//! Users and groups of a container, and user namespaces.

use std::os::unix::fs::{MetadataExt as _, chown};

use crisp_e2e::request::{FIRST_USER, own_users};
use crisp_e2e::{Image, Result, request};
use k8s_cri::v1::{
    ContainerConfig, ContainerUser, IdMapping, Int64Value, LinuxContainerSecurityContext, LinuxContainerUser,
    Mount, NamespaceMode, StatusRequest, SupplementalGroupsPolicy,
};
use serde_json::json;

use crate::cri::{Cri, Pod, secured};

promises! {
    a_container_runs_as_its_user_and_group: Kubernetes, ["LinuxContainerSecurityContext.run_as_user",
        "LinuxContainerSecurityContext.run_as_group", "Int64Value.value"],
        "A container runs as runAsUser and runAsGroup, whom the image need not know";
    a_container_runs_as_its_user_by_name: Cri, ["LinuxContainerSecurityContext.run_as_username"],
        "A user by name is the one in the image's /etc/passwd, with its group; an unknown one is refused";
    a_container_runs_as_the_images_user: Kubernetes, ["ContainerConfig.image"],
        "Without a user the image's is used, and without one there root";
    a_group_needs_a_user: Cri, ["LinuxContainerSecurityContext.run_as_group"],
        "A group without a user is refused";
    supplemental_groups_are_added: Kubernetes, ["LinuxContainerSecurityContext.supplemental_groups"],
        "fsGroup and supplementalGroups are groups of the process";
    merge_takes_the_images_groups: Kubernetes, ["LinuxContainerSecurityContext.supplemental_groups_policy"],
        "With the policy Merge the groups of the user in the image's /etc/group are added";
    strict_leaves_the_images_groups: Kubernetes, ["LinuxContainerSecurityContext.supplemental_groups_policy",
        "RuntimeFeatures.supplemental_groups_policy", "StatusResponse.features"],
        "With the policy Strict they are not, where the status says that the runtime can";
    a_containers_status_has_its_user: Kubernetes, ["ContainerStatus.user", "ContainerUser.linux",
        "LinuxContainerUser.uid", "LinuxContainerUser.gid", "LinuxContainerUser.supplemental_groups"],
        "A container's status has the user, the group and the groups that its first process has";
    a_user_namespace_maps_root: Kubernetes, ["NamespaceOption.userns_options", "UserNamespace.mode",
        "UserNamespace.uids", "UserNamespace.gids", "IDMapping.host_id", "IDMapping.container_id",
        "IDMapping.length", "RuntimeHandlerFeatures.user_namespaces"],
        "In a pod with hostUsers: false root is the first user of the mapping on the node, and its files are root's";
    a_volume_is_mapped_in_a_user_namespace: Kubernetes, ["Mount.uidMappings", "Mount.gidMappings"],
        "In a pod with a user namespace a mapped volume's owners are the same users inside and on disk";
    a_user_namespace_of_the_node_maps_nothing: Cri, ["UserNamespace.mode"],
        "With the mode NODE there is no user namespace";
}

fn id(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

const IDS: &str = "echo $(id -u) $(id -g) $(id -G)";

async fn a_container_runs_as_its_user_and_group(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for (user, group, expected) in
        [(1234, None, "1234 0 0\n"), (1234, id(5678), "1234 5678 5678\n"), (0, id(5), "0 5 5\n")]
    {
        let context = LinuxContainerSecurityContext {
            run_as_user: id(user),
            run_as_group: group,
            ..Default::default()
        };
        let config = secured(cri.shell(IDS), context);
        assert_eq!(cri.output_in(&pod, &config).await?, expected);
    }
    Ok(())
}

async fn a_container_runs_as_its_user_by_name(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let named =
        |name: &str| LinuxContainerSecurityContext { run_as_username: name.into(), ..Default::default() };
    let config = secured(cri.shell("id -u; id -g"), named("app"));
    assert_eq!(cri.output_in(&pod, &config).await?, "1000\n1001\n");
    let config = secured(cri.shell("true"), named("stranger"));
    assert!(cri.launch(&pod, &config).await.is_err(), "the image has no such user");
    Ok(())
}

async fn a_container_runs_as_the_images_user(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for (user, expected) in [("app", "1000 1001"), ("77:88", "77 88"), ("", "0 0")] {
        let image = cri.image(&Image::busybox().config("User", json!(user)).build()).await?;
        let mut config = cri.shell("echo $(id -u) $(id -g)");
        config.image.get_or_insert_default().image = image;
        assert_eq!(cri.output_in(&pod, &config).await?.trim(), expected, "{user}");
    }
    Ok(())
}

async fn a_group_needs_a_user(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let context = LinuxContainerSecurityContext { run_as_group: id(5), ..Default::default() };
    let config = secured(cri.shell("true"), context);
    assert!(cri.launch(&pod, &config).await.is_err());
    Ok(())
}

async fn supplemental_groups_are_added(cri: &mut Cri) -> Result<()> {
    let context = LinuxContainerSecurityContext {
        run_as_user: id(4321),
        supplemental_groups: vec![3000, 4_000_000],
        ..Default::default()
    };
    let config = secured(cri.shell("grep ^Groups: /proc/self/status"), context);
    let output = cri.output(&config).await?;
    let groups: Vec<&str> = output.split_whitespace().collect();
    assert!(groups.contains(&"3000") && groups.contains(&"4000000"), "{output}");
    Ok(())
}

/// A container of the user `app`, who is in group 2000 of the image.
fn app(cri: &Cri, policy: SupplementalGroupsPolicy) -> ContainerConfig {
    let context = LinuxContainerSecurityContext {
        run_as_user: id(1000),
        run_as_group: id(1001),
        supplemental_groups: vec![3000],
        supplemental_groups_policy: policy.into(),
        ..Default::default()
    };
    secured(cri.shell(&format!("{IDS}; exec sleep 1000")), context)
}

/// The groups of the first process.
async fn groups(cri: &mut Cri, policy: SupplementalGroupsPolicy) -> Result<Vec<u32>> {
    let config = app(cri, policy);
    let (_pod, container) = cri.running_as(&config).await?;
    let line = cri.sh(&container, "grep ^Groups: /proc/1/status | tr -d '\\n'").await?;
    let groups = line.split_whitespace().skip(1).map(str::parse);
    let mut groups: Vec<u32> = groups.collect::<Result<_, _>>()?;
    groups.sort_unstable();
    Ok(groups)
}

async fn merge_takes_the_images_groups(cri: &mut Cri) -> Result<()> {
    let merged = groups(cri, SupplementalGroupsPolicy::Merge).await?;
    assert!(merged.contains(&2000) && merged.contains(&3000), "{merged:?}");
    Ok(())
}

async fn strict_leaves_the_images_groups(cri: &mut Cri) -> Result<()> {
    let features = cri.client.runtime.status(StatusRequest::default()).await?.into_inner().features;
    assert!(features.is_some_and(|features| features.supplemental_groups_policy), "{features:?}");
    let strict = groups(cri, SupplementalGroupsPolicy::Strict).await?;
    assert!(!strict.contains(&2000) && strict.contains(&3000), "{strict:?}");
    Ok(())
}

async fn a_containers_status_has_its_user(cri: &mut Cri) -> Result<()> {
    for (policy, expected) in [
        (SupplementalGroupsPolicy::Merge, &[1001, 2000, 3000][..]),
        (SupplementalGroupsPolicy::Strict, &[1001, 3000]),
    ] {
        let config = app(cri, policy);
        let (_pod, container) = cri.running_as(&config).await?;
        let user = cri.client.status(&container).await?.user;
        let Some(ContainerUser { linux: Some(LinuxContainerUser { uid, gid, mut supplemental_groups }) }) =
            user
        else {
            return Err(format!("no user in the status: {user:?}").into());
        };
        supplemental_groups.sort_unstable();
        assert_eq!((uid, gid, &supplemental_groups[..]), (1000, 1001, expected));
    }
    Ok(())
}

/// A pod with a user namespace, and the security context that its containers need. None when the host
/// supports no user namespaces.
async fn mapped_pod(cri: &mut Cri) -> Result<Option<(Pod, LinuxContainerSecurityContext)>> {
    let handlers = cri.client.runtime.status(StatusRequest::default()).await?.into_inner().runtime_handlers;
    let default = handlers.into_iter().find(|handler| handler.name.is_empty()).ok_or("no default handler")?;
    if !default.features.is_some_and(|features| features.user_namespaces) {
        return Ok(None);
    }
    let mut options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Container);
    options.userns_options = Some(own_users());
    let config = cri.sandbox_with(options.clone());
    let pod = cri.run(&config).await?;
    let namespace_options = Some(options);
    Ok(Some((pod, LinuxContainerSecurityContext { namespace_options, ..Default::default() })))
}

async fn a_user_namespace_maps_root(cri: &mut Cri) -> Result<()> {
    let Some((pod, context)) = mapped_pod(cri).await? else {
        crisp_skip::unsupported!(Kernel("user namespaces for this runtime"));
    };
    let line =
        "echo $(cat /proc/self/uid_map) $(cat /proc/self/gid_map); id -u; stat -c %u:%g /bin /etc/passwd";
    let config = secured(cri.shell(line), context);
    let expected = format!("0 {FIRST_USER} 65536 0 {FIRST_USER} 65536\n0\n0:0\n0:0\n");
    assert_eq!(cri.output_in(&pod, &config).await?, expected);
    Ok(())
}

async fn a_volume_is_mapped_in_a_user_namespace(cri: &mut Cri) -> Result<()> {
    let Some((pod, context)) = mapped_pod(cri).await? else {
        crisp_skip::unsupported!(Kernel("user namespaces for this runtime"));
    };
    let folder = cri.new_folder()?;
    std::fs::write(folder.join("file"), "")?;
    chown(folder.join("file"), Some(1000), Some(2000))?;
    let map = vec![IdMapping { host_id: FIRST_USER, container_id: 0, length: 65_536 }];
    let mount = Mount { uid_mappings: map.clone(), gid_mappings: map, ..crate::mounts::bind(&folder, "/v") };
    let mut config = secured(cri.shell("stat -c %u:%g /v/file; touch /v/made"), context);
    config.mounts = vec![mount];
    assert_eq!(cri.output_in(&pod, &config).await?, "1000:2000\n");
    assert_eq!(folder.join("made").metadata()?.uid(), 0);
    Ok(())
}

async fn a_user_namespace_of_the_node_maps_nothing(cri: &mut Cri) -> Result<()> {
    let mut options = request::namespaces(NamespaceMode::Pod, NamespaceMode::Container);
    let mode = NamespaceMode::Node.into();
    options.userns_options = Some(k8s_cri::v1::UserNamespace { mode, ..Default::default() });
    let config = cri.sandbox_with(options.clone());
    let pod = cri.run(&config).await?;
    let namespace_options = Some(options);
    let context = LinuxContainerSecurityContext { namespace_options, ..Default::default() };
    let config = secured(cri.shell("readlink /proc/self/ns/user"), context);
    let ours = std::fs::read_link("/proc/self/ns/user")?;
    assert_eq!(cri.output_in(&pod, &config).await?, format!("{}\n", ours.display()));
    Ok(())
}
