//! The confinement of a container: capabilities, profiles, masked paths, privileges.

use crisp_e2e::{Result, says};
use k8s_cri::v1::{
    Capability, ContainerConfig, LinuxContainerSecurityContext, SeLinuxOption, SecurityProfile,
    security_profile::ProfileType,
};

use crate::cri::{Cri, secured};
use crate::mounts::privileged_pod;

promises! {
    the_default_capabilities_are_the_usual_ones: Kubernetes, ["LinuxContainerConfig.security_context",
        "ContainerConfig.linux"],
        "A container of root has the 14 default capabilities of container runtimes";
    capabilities_are_dropped_and_added: Cri, ["LinuxContainerSecurityContext.capabilities",
        "Capability.add_capabilities", "Capability.drop_capabilities"],
        "Capabilities are dropped and added to the default ones, ALL means all, and what is added stays after drop ALL";
    an_unknown_capability_is_refused: Cri, ["Capability.add_capabilities"],
        "A capability that does not exist is refused by its name",
        containerd: "a capability that does not exist was given";
    a_user_has_no_capabilities: Kubernetes, ["LinuxContainerSecurityContext.run_as_user"],
        "A container of another user than root has no effective capabilities";
    ambient_capabilities_reach_a_user: Cri, ["Capability.add_ambient_capabilities"],
        "An ambient capability is effective for a user that is not root",
        containerd: "CapAmb:0000000000000000";
    no_new_privs_is_set_when_asked_for: Kubernetes, ["LinuxContainerSecurityContext.no_new_privs"],
        "allowPrivilegeEscalation: false sets no_new_privs, and without it it is not set";
    masked_paths_show_nothing: Cri, ["LinuxContainerSecurityContext.masked_paths"],
        "A masked file is empty, a masked folder too, and a missing one is no error";
    readonly_paths_are_not_written: Cri, ["LinuxContainerSecurityContext.readonly_paths"],
        "A read-only path is not written, and a missing one is no error";
    a_read_only_root_is_not_written: Kubernetes, ["LinuxContainerSecurityContext.readonly_rootfs"],
        "With readOnlyRootFilesystem nothing of the root is written, but /dev/shm and volumes are";
    seccomp_filters_by_default: Kubernetes, ["LinuxContainerSecurityContext.seccomp", "SecurityProfile.profile_type"],
        "The profile RuntimeDefault filters system calls, Unconfined does not";
    seccomp_takes_a_profile_of_the_node: Kubernetes, ["SecurityProfile.localhost_ref"],
        "A Localhost profile of seccomp filters what it says, and a missing one is refused by its path";
    apparmor_confines_by_default: Kubernetes, ["LinuxContainerSecurityContext.apparmor"],
        "AppArmor's RuntimeDefault confines, Unconfined does not, and a profile that is not loaded is refused";
    selinux_options_need_no_selinux: Kubernetes, ["LinuxContainerSecurityContext.selinux_options",
        "SELinuxOption.user", "SELinuxOption.role", "SELinuxOption.type", "SELinuxOption.level"],
        "Where the host has no SELinux its options are no reason to refuse a container";
    a_privileged_container_has_all_rights: Cri, ["LinuxContainerSecurityContext.privileged",
        "LinuxSandboxSecurityContext.privileged"],
        "A privileged container has all capabilities, the node's devices, a writable /sys and no seccomp filter";
    a_privileged_container_needs_a_privileged_pod: Cri, ["LinuxSandboxSecurityContext.privileged"],
        "A privileged container in a pod that is not is refused";
    an_unprivileged_container_is_kept_out: Kubernetes, ["CreateContainer"],
        "Without privileges a container mounts nothing, writes no /sys, and opens no device of the node";
}

/// A line of /proc/self/status without its tabs.
fn status_line(name: &str) -> String {
    format!("grep '^{name}:' /proc/self/status | tr -d '\\t '")
}

fn capabilities(add: &[&str], drop: &[&str], ambient: &[&str]) -> LinuxContainerSecurityContext {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let capabilities = Some(Capability {
        add_capabilities: words(add),
        drop_capabilities: words(drop),
        add_ambient_capabilities: words(ambient),
    });
    LinuxContainerSecurityContext { capabilities, ..Default::default() }
}

fn profile(profile_type: ProfileType, name: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: profile_type.into(), localhost_ref: name.into() })
}

fn seccomp(profile_type: ProfileType, path: &str) -> LinuxContainerSecurityContext {
    LinuxContainerSecurityContext { seccomp: profile(profile_type, path), ..Default::default() }
}

async fn the_default_capabilities_are_the_usual_ones(cri: &mut Cri) -> Result<()> {
    // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot
    // mknod audit_write setfcap
    let config = cri.shell(&[status_line("CapPrm"), status_line("CapEff"), status_line("CapBnd")].join(";"));
    let set = "00000000a80425fb";
    assert_eq!(cri.output(&config).await?, format!("CapPrm:{set}\nCapEff:{set}\nCapBnd:{set}\n"));
    Ok(())
}

/// The capabilities that this process may grant.
fn host_capabilities() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).ok_or("no CapBnd")?;
    Ok(u64::from_str_radix(line.trim(), 16)?)
}

async fn capabilities_are_dropped_and_added(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let all = host_capabilities()?;
    let without_chown = format!("{:016x}", all & !1);
    for (add, drop, expected) in [
        (&[][..], &["ALL"][..], "0000000000000000"),
        (&["NET_ADMIN"], &["ALL"], "0000000000001000"),
        (&["NET_ADMIN"], &["CHOWN", "KILL"], "00000000a80435da"),
        (&["ALL"], &["CHOWN"], without_chown.as_str()),
    ] {
        let config = secured(cri.shell(&status_line("CapEff")), capabilities(add, drop, &[]));
        let output = cri.output_in(&pod, &config).await?;
        assert_eq!(output.trim(), format!("CapEff:{expected}"), "{add:?} {drop:?}");
    }
    Ok(())
}

async fn an_unknown_capability_is_refused(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = secured(cri.shell("true"), capabilities(&["NO_SUCH"], &[], &[]));
    let refused =
        cri.launch(&pod, &config).await.err().ok_or("a capability that does not exist was given")?;
    says(&refused, &["NO_SUCH"]);
    Ok(())
}

async fn a_user_has_no_capabilities(cri: &mut Cri) -> Result<()> {
    let run_as_user = Some(k8s_cri::v1::Int64Value { value: 1000 });
    let context = LinuxContainerSecurityContext { run_as_user, ..Default::default() };
    let config = secured(cri.shell(&[status_line("CapPrm"), status_line("CapEff")].join(";")), context);
    assert_eq!(cri.output(&config).await?, "CapPrm:0000000000000000\nCapEff:0000000000000000\n");
    Ok(())
}

async fn ambient_capabilities_reach_a_user(cri: &mut Cri) -> Result<()> {
    let mut context = capabilities(&[], &[], &["NET_BIND_SERVICE"]);
    context.run_as_user = Some(k8s_cri::v1::Int64Value { value: 1000 });
    let config = secured(cri.shell(&[status_line("CapAmb"), status_line("CapEff")].join(";")), context);
    let output = cri.output(&config).await?;
    assert_eq!(output, "CapAmb:0000000000000400\nCapEff:0000000000000400\n");
    Ok(())
}

async fn no_new_privs_is_set_when_asked_for(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for no_new_privs in [false, true] {
        let context = LinuxContainerSecurityContext { no_new_privs, ..Default::default() };
        let config = secured(cri.shell(&status_line("NoNewPrivs")), context);
        let output = cri.output_in(&pod, &config).await?;
        assert_eq!(output, format!("NoNewPrivs:{}\n", u8::from(no_new_privs)));
    }
    Ok(())
}

fn paths(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|&path| path.to_owned()).collect()
}

async fn masked_paths_show_nothing(cri: &mut Cri) -> Result<()> {
    let line = "cat /etc/group | wc -c; ls /sys/kernel | wc -l; ls /etc/passwd";
    let masked_paths = paths(&["/etc/group", "/sys/kernel", "/no/such/path"]);
    let context = LinuxContainerSecurityContext { masked_paths, ..Default::default() };
    let config = secured(cri.shell(line), context);
    assert_eq!(cri.output(&config).await?, "0\n0\n/etc/passwd\n");
    Ok(())
}

async fn readonly_paths_are_not_written(cri: &mut Cri) -> Result<()> {
    let line = "touch /tmp/x 2>/dev/null || echo sealed; touch /x && echo open; \
        echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward || echo sealed";
    let readonly_paths = paths(&["/tmp", "/proc/sys", "/no/such/path"]);
    let context = LinuxContainerSecurityContext { readonly_paths, ..Default::default() };
    let config = secured(cri.shell(line), context);
    assert_eq!(cri.output(&config).await?, "sealed\nopen\nsealed\n");
    Ok(())
}

async fn a_read_only_root_is_not_written(cri: &mut Cri) -> Result<()> {
    let folder = cri.new_folder()?;
    let line = "for f in /x /etc/x /tmp/x /dev/shm/x /v/x; do touch $f 2>/dev/null && echo $f; done; true";
    let context = LinuxContainerSecurityContext { readonly_rootfs: true, ..Default::default() };
    let mut config: ContainerConfig = secured(cri.shell(line), context);
    config.mounts = vec![crate::mounts::bind(&folder, "/v")];
    assert_eq!(cri.output(&config).await?, "/dev/shm/x\n/v/x\n");
    Ok(())
}

async fn seccomp_filters_by_default(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for (kind, expected) in
        [(ProfileType::RuntimeDefault, "Seccomp:2\n"), (ProfileType::Unconfined, "Seccomp:0\n")]
    {
        let config = secured(cri.shell(&status_line("Seccomp")), seccomp(kind, ""));
        assert_eq!(cri.output_in(&pod, &config).await?, expected);
    }
    Ok(())
}

async fn seccomp_takes_a_profile_of_the_node(cri: &mut Cri) -> Result<()> {
    let file = cri.new_folder()?.join("no-mkdir.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    std::fs::write(&file, text)?;
    let local = seccomp(ProfileType::Localhost, &file.display().to_string());
    let config =
        secured(cri.shell("mkdir /tmp/x 2>&1 | grep -o 'Permission denied'; touch /x && ls /x"), local);
    assert_eq!(cri.output(&config).await?, "Permission denied\n/x\n");
    let missing = seccomp(ProfileType::Localhost, "/no/such/profile.json");
    let config = secured(cri.shell("true"), missing);
    let pod = cri.pod().await?;
    let refused = cri.launch(&pod, &config).await.expect_err("there is no such profile");
    says(&refused, &["/no/such/profile.json"]);
    Ok(())
}

async fn apparmor_confines_by_default(cri: &mut Cri) -> Result<()> {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|text| text.trim() == "Y") {
        crisp_skip::unsupported!(SecurityModule("AppArmor"));
    }
    let pod = cri.pod().await?;
    let of =
        |kind, name| LinuxContainerSecurityContext { apparmor: profile(kind, name), ..Default::default() };
    let line = "cat /proc/self/attr/current";
    let config = secured(cri.shell(line), of(ProfileType::RuntimeDefault, ""));
    assert!(cri.output_in(&pod, &config).await?.ends_with(" (enforce)\n"));
    let config = secured(cri.shell(line), of(ProfileType::Unconfined, ""));
    assert_eq!(cri.output_in(&pod, &config).await?, "unconfined\n");
    let config = secured(cri.shell("true"), of(ProfileType::Localhost, "no-such-profile"));
    let refused = cri.launch(&pod, &config).await.expect_err("there is no such profile");
    says(&refused, &["no-such-profile"]);
    Ok(())
}

async fn selinux_options_need_no_selinux(cri: &mut Cri) -> Result<()> {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        crisp_skip::unsupported!(Without("SELinux"));
    }
    let selinux_options = Some(SeLinuxOption {
        user: "system_u".into(),
        role: "system_r".into(),
        r#type: "container_t".into(),
        level: "s0:c1,c2".into(),
    });
    let context = LinuxContainerSecurityContext { selinux_options, ..Default::default() };
    let config = secured(cri.shell("echo runs"), context);
    assert_eq!(cri.output(&config).await?, "runs\n");
    Ok(())
}

async fn a_privileged_container_has_all_rights(cri: &mut Cri) -> Result<()> {
    let pod = privileged_pod(cri).await?;
    let context = LinuxContainerSecurityContext { privileged: true, ..Default::default() };
    let line = [
        status_line("CapEff"),
        status_line("Seccomp"),
        "ls /dev/kmsg; mount -t tmpfs x /tmp && echo mounted; grep -c ' /sys sysfs rw' /proc/mounts".into(),
    ];
    let config = secured(cri.shell(&line.join(";")), context);
    let all = host_capabilities()?;
    let expected = format!("CapEff:{all:016x}\nSeccomp:0\n/dev/kmsg\nmounted\n1\n");
    assert_eq!(cri.output_in(&pod, &config).await?, expected);
    Ok(())
}

async fn a_privileged_container_needs_a_privileged_pod(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let context = LinuxContainerSecurityContext { privileged: true, ..Default::default() };
    let config = secured(cri.shell("true"), context);
    let refused = cri.create(&pod, &config).await.expect_err("the pod is not privileged");
    says(&refused, &["privileged"]);
    Ok(())
}

async fn an_unprivileged_container_is_kept_out(cri: &mut Cri) -> Result<()> {
    let line = "mount -t tmpfs x /tmp 2>/dev/null && echo mounted; touch /sys/x 2>/dev/null && echo wrote /sys; \
        mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg 2>/dev/null && echo read a device; \
        test -e /dev/kmsg && echo has a device; hostname evil 2>/dev/null && echo renamed; true";
    let config = cri.shell(line);
    assert_eq!(cri.output(&config).await?, "");
    Ok(())
}
