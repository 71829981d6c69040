//! Actions that a container must not be able to do, and files that it must not see.

use crisp_e2e::{Lab, Result, needs, request};
use k8s_cri::v1::{
    Capability, ContainerConfig, LinuxContainerConfig, LinuxContainerSecurityContext, NamespaceMode,
    SecurityProfile, security_profile::ProfileType,
};

fn with(mut config: ContainerConfig, context: LinuxContainerSecurityContext) -> ContainerConfig {
    config.linux = Some(LinuxContainerConfig { security_context: Some(context), ..Default::default() });
    config
}

fn capabilities(add: &[&str], drop: &[&str]) -> Option<Capability> {
    let words = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect();
    Some(Capability { add_capabilities: words(add), drop_capabilities: words(drop), ..Default::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_are_the_usual_ones_less_what_is_dropped() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let line = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status | tr -d '\\t '";
    let usual = lab.output("usual", lab.shell(line)).await?;
    // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot
    // mknod audit_write setfcap
    let set = "00000000a80425fb";
    for expected in [
        "CapInh:0000000000000000",
        &format!("CapPrm:{set}"),
        &format!("CapBnd:{set}"),
        "CapAmb:0000000000000000",
    ] {
        assert!(usual.contains(expected), "{expected} is missing in {usual}");
    }
    let none = with(
        lab.shell(line),
        LinuxContainerSecurityContext {
            capabilities: capabilities(&[], &["ALL"]),
            no_new_privs: true,
            ..Default::default()
        },
    );
    let none = lab.output("none", none).await?;
    assert!(none.contains("CapEff:0000000000000000") && none.contains("NoNewPrivs:1"), "{none}");
    let one = with(
        lab.shell(line),
        LinuxContainerSecurityContext {
            capabilities: capabilities(&["NET_ADMIN"], &["ALL"]),
            ..Default::default()
        },
    );
    let one = lab.output("one", one).await?;
    assert!(one.contains("CapEff:0000000000001000"), "{one}");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_host_is_open_in_a_container() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    // `ls` itself opens the folder that it lists, as number 3.
    let log = lab.output("descriptors", lab.shell("ls /proc/self/fd | tr '\\n' ' '")).await?;
    assert_eq!(log.trim(), "0 1 2 3");
    let log = lab.output("processes", lab.shell("ls -d /proc/[0-9]* | wc -l")).await?;
    assert!(log.trim().parse::<u32>()? < 6, "sees processes that are not its own: {log}");
    let mut escape = lab.shell("pwd");
    for number in [3, 7, 8, 9, 100] {
        escape.working_dir = format!("/proc/self/fd/{number}");
        let status = lab.refused(&format!("cwd{number}"), &escape).await?;
        crisp_e2e::says(&status, &["/proc/self/fd"]);
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_is_out_of_reach() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let line = "mount -t tmpfs x /tmp 2>/dev/null && echo mounted; echo 1 2>/dev/null > /proc/sys/kernel/core_pattern && echo written; \
                mknod /tmp/disk b 8 0 && cat /tmp/disk > /dev/null 2>&1 && echo read; \
                touch /sys/x 2>/dev/null && echo sysfs; hostname evil 2>/dev/null && echo renamed; true";
    let context = LinuxContainerSecurityContext {
        masked_paths: vec!["/proc/kcore".into(), "/proc/acpi".into()],
        readonly_paths: vec!["/proc/sys".into()],
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(lab.output("reach", with(lab.shell(line), context)).await?, "");
    let seccomp = with(
        lab.shell("grep '^Seccomp:' /proc/self/status"),
        LinuxContainerSecurityContext {
            seccomp: Some(SecurityProfile {
                profile_type: ProfileType::RuntimeDefault.into(),
                ..Default::default()
            }),
            ..Default::default()
        },
    );
    assert!(lab.output("seccomp", seccomp).await?.contains('2'));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn masked_and_read_only_paths_and_roots() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let context = LinuxContainerSecurityContext {
        masked_paths: vec!["/proc/keys".into(), "/etc/group".into(), "/root".into()],
        readonly_paths: vec!["/proc/sys".into(), "/tmp".into()],
        readonly_rootfs: true,
        ..Default::default()
    };
    let line = "cat /etc/group | wc -c; ls /root | wc -l; touch /tmp/x 2>/dev/null || echo tmp; touch /x 2>/dev/null || echo root";
    assert_eq!(lab.output("masks", with(lab.shell(line), context)).await?, "0\n0\ntmp\nroot\n");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_seccomp_profile_is_obeyed() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let profile = lab.machine.folder().join("no-mkdir.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    std::fs::write(&profile, text)?;
    let local = SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: profile.display().to_string(),
    };
    let context = LinuxContainerSecurityContext { seccomp: Some(local), ..Default::default() };
    let config = with(lab.shell("mkdir /tmp/x 2>&1 | grep -o 'Permission denied'"), context);
    assert_eq!(lab.output("local", config).await?, "Permission denied\n");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_sees_devices_and_may_mount() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let mut sandbox = request::pod(&lab.machine, "privileged");
    let linux = sandbox.linux.as_mut().and_then(|l| l.security_context.as_mut()).ok_or("no context")?;
    linux.privileged = true;
    let pod = lab.client.run_pod(&sandbox).await?;
    let context = LinuxContainerSecurityContext {
        privileged: true,
        namespace_options: Some(request::namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
        ..Default::default()
    };
    let line = "mount -t tmpfs x /tmp && echo mounted; ls /dev/kmsg /dev/fuse; grep CapEff /proc/self/status | tr -d '\\t '";
    let id = lab.client.launch(&pod, &with(lab.shell(line), context), &sandbox).await?;
    lab.client.wait(&id).await?;
    let log = lab.machine.container_log("privileged", "main")?;
    let host = std::fs::read_to_string("/proc/self/status")?;
    let host = host
        .lines()
        .find(|l| l.starts_with("CapBnd"))
        .and_then(|l| l.split_whitespace().nth(1))
        .ok_or("no CapBnd")?;
    assert!(log.contains("mounted") && log.contains(&format!("CapEff:{host}")), "{log}");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn apparmor_confines_containers_unless_they_are_unconfined() -> Result<()> {
    needs!("docker-registry", "busybox", "apparmor_parser");
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|text| text.trim() == "Y") {
        crisp_skip::unsupported!(SecurityModule("AppArmor"));
    }
    let mut lab = Lab::start().await?;
    let line = "cat /proc/self/attr/current; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; true";
    let context = |profile: Option<SecurityProfile>| LinuxContainerSecurityContext {
        capabilities: capabilities(&["SYS_ADMIN"], &[]),
        apparmor: profile,
        ..Default::default()
    };
    let of_type = |kind: ProfileType, name: &str| {
        Some(SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
    };
    let confined = "crisp-default (enforce)\n";
    let default = of_type(ProfileType::RuntimeDefault, "");
    let named = of_type(ProfileType::Localhost, "crisp-default");
    for (name, profile) in [("unspecified", None), ("default", default), ("named", named)] {
        assert_eq!(lab.output(name, with(lab.shell(line), context(profile))).await?, confined, "{name}");
    }
    let unconfined = with(lab.shell(line), context(of_type(ProfileType::Unconfined, "")));
    assert_eq!(lab.output("unconfined", unconfined).await?, "unconfined\nmounted\n");
    let missing = with(lab.shell(line), context(of_type(ProfileType::Localhost, "no-such-profile")));
    let status = lab.refused("missing", &missing).await?;
    crisp_e2e::says(&status, &["no-such-profile", "apparmor_parser"]);
    lab.close().await
}

/// A pod with a network, whose root is another user of the host.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_a_user_namespace_of_its_own() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, security) = request::pod_with_own_users(&lab.machine, "mapped");
    let pod = lab.client.run_pod(&sandbox).await?;
    let context = LinuxContainerSecurityContext { readonly_paths: vec!["/proc/sys".into()], ..security };
    let container = lab.client.launch(&pod, &with(lab.shell("sleep 1000"), context), &sandbox).await?;
    let ping = ["ping", "-c", "1", "-W", "2", "127.0.0.1"];
    assert_eq!(lab.client.exec(&container, &ping).await?.exit_code, 0, "as a group that the namespace has");
    let line = "cat /proc/self/uid_map; id -u; stat -c %u /etc/hosts /bin; ls /sys/class/net; \
        echo 1 > /proc/sys/net/ipv4/ip_forward || echo sealed; hostname";
    let text = String::from_utf8(lab.client.exec(&container, &["sh", "-c", line]).await?.stdout.to_vec())?;
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words[..6], ["0", "200000", "65536", "0", "0", "0"], "{text}");
    assert!(words.contains(&"eth0") && words.ends_with(&["sealed", "mapped"]), "{text}");
    lab.close().await
}
