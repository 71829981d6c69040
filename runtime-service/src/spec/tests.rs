use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::cdi::Edits;
use crate::container::config::*;

pub(crate) fn security() -> Security {
    Security {
        privileged: false,
        user: UserRequest::Image,
        group: None,
        supplemental_groups: vec![],
        groups_policy: GroupsPolicy::Merge,
        add_capabilities: CapabilityNames::default(),
        drop_capabilities: CapabilityNames::default(),
        ambient_capabilities: vec![],
        no_new_privileges: false,
        readonly_rootfs: false,
        masked_paths: vec!["/proc/kcore".into()],
        readonly_paths: vec!["/proc/sys".into()],
        seccomp: SeccompRequest::Unconfined,
        apparmor: AppArmorRequest::Unspecified,
        pid: PidNamespaceRequest::OfPod,
        user_namespace: UserNamespaceRequest::OfPod,
        host_network: false,
        host_ipc: false,
    }
}

pub(crate) fn config() -> ContainerConfig {
    ContainerConfig {
        name: "app".into(),
        attempt: 0,
        image: ImageRequest {
            image: "busybox".into(),
            user_specified: String::new(),
            annotations: BTreeMap::new(),
        },
        command: vec!["/bin/app".into()],
        args: vec!["-v".into()],
        working_dir: None,
        envs: vec![("A".into(), "1".into())],
        mounts: vec![],
        devices: vec![],
        cdi_devices: vec![],
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: None,
        stdin: false,
        stdin_once: false,
        tty: false,
        stop_signal: None,
        resources: Resources { memory_limit: Some(1 << 20), oom_score_adj: 5, ..Default::default() },
        security: security(),
    }
}

fn pod() -> PodInputs {
    PodInputs {
        hostname: "web".into(),
        files: vec![("/pod/hosts".into(), "/etc/hosts")],
        host_network: false,
        host_ipc: false,
        user: None,
        monitor_pid: 42,
        cgroup: "/crisp/pod/c".into(),
    }
}

fn host() -> Host {
    Host::detect(Mode::V1)
}

fn built(config: &ContainerConfig, pod: &PodInputs, pid: PidNamespace<i32>) -> Spec {
    built_on(&host(), config, pod, pid).unwrap()
}

fn built_on(
    host: &Host,
    config: &ContainerConfig,
    pod: &PodInputs,
    pid: PidNamespace<i32>,
) -> Result<Spec, SpecError> {
    let user = User { uid: 1000, gid: 100, groups: vec![100], home: "/home".into() };
    let image = ImageProcess {
        working_dir: Some("/work".into()),
        cmd: vec!["unused".into()],
        ..ImageProcess::default()
    };
    build(&Inputs {
        config,
        resources: &config.resources,
        image: &image,
        user: &user,
        pod,
        host,
        pid,
        volumes: &[],
        cdi: &Edits::default(),
        seccomp: None,
        annotations: HashMap::new(),
    })
}

#[test]
fn an_unspecified_apparmor_profile_is_the_default_one_where_the_host_has_apparmor() {
    use crisp_executor::apparmor::{AppArmor, DEFAULT_PROFILE};
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let profile = |apparmor: AppArmorRequest, privileged: bool| {
        let mut config = config();
        (config.security.apparmor, config.security.privileged) = (apparmor, privileged);
        let host = Host { apparmor: AppArmor::below(root.path()).into(), ..host() };
        let spec = built_on(&host, &config, &pod(), PidNamespace::Own).map_err(|error| error.to_string())?;
        Ok::<_, String>(spec.process().as_ref().unwrap().apparmor_profile().clone())
    };
    let default = || Ok(Some(DEFAULT_PROFILE.to_owned()));
    let mine = || AppArmorRequest::Localhost("mine".to_owned());
    assert_eq!(profile(AppArmorRequest::Unspecified, false), Ok(None), "no AppArmor");
    assert!(profile(mine(), false).unwrap_err().contains("not enabled on this host"));
    write("sys/module/apparmor/parameters/enabled", "Y\n");
    assert!(
        profile(AppArmorRequest::RuntimeDefault, false).unwrap_err().contains("apparmor_parser is missing")
    );
    write("sys/kernel/security/apparmor/profiles", "crisp-default (enforce)\n");
    assert_eq!(profile(AppArmorRequest::Unspecified, false), default());
    assert_eq!(profile(AppArmorRequest::RuntimeDefault, false), default());
    assert_eq!(profile(AppArmorRequest::Unconfined, false), Ok(None));
    assert_eq!(profile(AppArmorRequest::Unspecified, true), Ok(None), "privileged");
    for privileged in [false, true] {
        assert!(profile(mine(), privileged).unwrap_err().contains("\"mine\" is not loaded"));
    }
    write("sys/kernel/security/apparmor/profiles", "crisp-default (enforce)\nmine (enforce)\n");
    assert_eq!(profile(mine(), true), Ok(Some("mine".to_owned())), "an operator's own, although privileged");
}

#[test]
fn a_privileged_container_has_the_hosts_cgroup_namespace_on_cgroup_v2() {
    for (privileged, cgroups, own) in
        [(false, Mode::V2, true), (true, Mode::V2, false), (true, Mode::V1, true)]
    {
        let mut config = config();
        config.security.privileged = privileged;
        let host = Host { cgroups, ..host() };
        let spec = built_on(&host, &config, &pod(), PidNamespace::Own).unwrap();
        let namespace = namespace(&spec, LinuxNamespaceType::Cgroup);
        assert_eq!(namespace.is_some(), own, "{privileged} {cgroups:?}");
    }
}

fn namespace(spec: &Spec, typ: LinuxNamespaceType) -> Option<Option<String>> {
    let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let found = namespaces.iter().find(|n| n.typ() == typ)?;
    Some(found.path().as_ref().map(|p| p.display().to_string()))
}

#[test]
fn an_ordinary_container() {
    let spec = built(&config(), &pod(), PidNamespace::Own);
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().clone().unwrap(), ["/bin/app", "-v"]);
    assert_eq!(process.cwd(), Path::new("/work"));
    assert_eq!((process.user().uid(), process.user().gid()), (1000, 100));
    assert!(process.env().clone().unwrap().contains(&"A=1".to_owned()));
    assert_eq!(process.oom_score_adj(), Some(5));
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.masked_paths().clone().unwrap(), ["/proc/kcore"]);
    assert_eq!(linux.resources().as_ref().unwrap().memory().unwrap().limit(), Some(1 << 20));
    assert_eq!(namespace(&spec, LinuxNamespaceType::Network), Some(Some("/proc/42/ns/net".into())));
    assert_eq!(namespace(&spec, LinuxNamespaceType::Pid), Some(None));
}

#[test]
fn namespaces_of_the_host_are_not_listed() {
    let pod = PodInputs { host_network: true, host_ipc: true, ..pod() };
    let spec = built(&config(), &pod, PidNamespace::Host);
    for typ in [LinuxNamespaceType::Network, LinuxNamespaceType::Ipc, LinuxNamespaceType::Pid] {
        assert_eq!(namespace(&spec, typ), None, "{typ:?}");
    }
    let shm = spec.mounts().clone().unwrap().into_iter().find(|m| m.destination() == Path::new("/dev/shm"));
    assert_eq!(shm.unwrap().typ().as_deref(), Some("bind"));
}

#[test]
fn shared_pid_namespaces_have_paths() {
    let path = |pid| namespace(&built(&config(), &pod(), pid), LinuxNamespaceType::Pid).unwrap().unwrap();
    assert_eq!(path(PidNamespace::Target(7)), "/proc/7/ns/pid");
    assert_eq!(path(PidNamespace::Pod), "/proc/42/ns/pid_for_children");
}

#[test]
fn privileged_means_nothing_hidden_and_nothing_filtered() {
    let mut config = config();
    config.security.privileged = true;
    config.security.seccomp = SeccompRequest::RuntimeDefault;
    let spec = built(&config, &pod(), PidNamespace::Own);
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none());
    assert_eq!(linux.masked_paths().clone().unwrap(), Vec::<String>::new());
    let sys =
        spec.mounts().clone().unwrap().into_iter().find(|m| m.destination() == Path::new("/sys")).unwrap();
    assert!(sys.options().clone().unwrap().contains(&"rw".to_owned()));
}

#[test]
fn it_survives_config_json() {
    let spec = built(&config(), &pod(), PidNamespace::Own);
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
}
