//! The Pod itself.

use std::time::Duration;

use super::strict_object::Object;
use super::{
    Container, Dns, Extra, HostAlias, Map, PodSecurity, Volume, container, dns, pod_check, security, volume,
};

/// A pod that can be run here.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    /// The prefix of its name, if the rest is random.
    pub name_prefix: Option<String>,
    pub namespace: String,
    pub uid: Option<String>,
    pub labels: Map,
    pub annotations: Map,
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    pub volumes: Vec<Volume>,
    pub restart_policy: RestartPolicy,
    /// Seconds between the stop signal and SIGKILL.
    pub grace: u32,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_process_namespace: bool,
    pub hostname: Option<String>,
    pub dns_policy: DnsPolicy,
    pub dns: Dns,
    pub host_aliases: Vec<HostAlias>,
    pub security: PodSecurity,
    pub image_pull_secrets: Vec<String>,
    /// The maximal run time of the pod.
    pub active_deadline: Option<Duration>,
    pub service_account: String,
    /// The content of the annotation `crisp/container`.
    pub extra: Extra,
    /// For a Job: the number of failures after which a pod is started again.
    pub backoff_limit: Option<u32>,
}

impl Pod {
    /// Init containers first.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }
}

/// The action after a container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// The source of the pod's resolver settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The cluster's. Without a cluster: the network's, if it resolves names of pods, else the host's.
    Cluster,
    /// The host's settings.
    Host,
    /// Only `dnsConfig`.
    None,
}

/// The annotation with the name of the pod or container whose network the pod joins.
pub const NETWORK_OF: &str = "crisp/network-of";

/// The annotation with the backoff limit of a Job's pod: with it, only the pod's document must be kept.
pub const BACKOFF_LIMIT: &str = "crisp/backoff-limit";

/// Fields for a scheduler or for functions of an API server.
const WITHOUT_EFFECT: [&str; 15] = [
    "affinity",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "nodeName",
    "nodeSelector",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "schedulerName",
    "seLinuxChangePolicy",
    "serviceAccount",
    "tolerations",
    "topologySpreadConstraints",
    "schedulingGroup",
];
const UNSUPPORTED: [&str; 10] = [
    "ephemeralContainers",
    "hostnameOverride",
    "overhead",
    "resourceClaims",
    "resources",
    "runtimeClassName",
    "schedulingGates",
    "setHostnameAsFQDN",
    "subdomain",
    "workloadRef",
];

/// Reads `spec`. The names are filled in later.
pub fn read_spec(spec: &Object<'_>) -> Pod {
    let flag = |name| spec.bool(name).unwrap_or(false);
    let restart = [
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ];
    let dns_policy = [
        ("ClusterFirst", DnsPolicy::Cluster),
        ("ClusterFirstWithHostNet", DnsPolicy::Cluster),
        ("Default", DnsPolicy::Host),
        ("None", DnsPolicy::None),
    ];
    let pod = Pod {
        name: String::new(),
        name_prefix: None,
        namespace: String::new(),
        uid: None,
        labels: Map::new(),
        annotations: Map::new(),
        init_containers: container::read_all(spec, "initContainers", true),
        containers: container::read_all(spec, "containers", false),
        volumes: volume::read_all(spec),
        restart_policy: spec.word("restartPolicy", &restart).unwrap_or(RestartPolicy::Always),
        grace: spec.number("terminationGracePeriodSeconds").unwrap_or(30),
        host_network: flag("hostNetwork"),
        host_pid: flag("hostPID"),
        host_ipc: flag("hostIPC"),
        share_process_namespace: flag("shareProcessNamespace"),
        hostname: spec.string("hostname"),
        dns_policy: spec.word("dnsPolicy", &dns_policy).unwrap_or(DnsPolicy::Cluster),
        dns: dns::read_dns(spec),
        host_aliases: dns::read_host_aliases(spec),
        security: security::read_pod(spec),
        image_pull_secrets: image_pull_secrets(spec),
        active_deadline: active_deadline(spec),
        service_account: spec.string("serviceAccountName").unwrap_or_else(|| "default".to_owned()),
        extra: Extra::default(),
        backoff_limit: None,
    };
    operating_system(spec);
    spec.without_effect(&WITHOUT_EFFECT);
    // True is the default of pods.
    if spec.bool("hostUsers") == Some(false) {
        spec.unsupported(&["hostUsers"]);
    }
    spec.unsupported(&UNSUPPORTED);
    pod_check::check(spec, &pod);
    spec.finish();
    pod
}

/// The maximal run time of a pod or a Job.
pub fn active_deadline(spec: &Object<'_>) -> Option<Duration> {
    let seconds: u32 = spec.number("activeDeadlineSeconds")?;
    if seconds == 0 {
        spec.refuse("activeDeadlineSeconds", "must be at least 1");
    }
    Some(Duration::from_secs(seconds.into()))
}

fn image_pull_secrets(spec: &Object<'_>) -> Vec<String> {
    let name = |object: Object<'_>| {
        let name = object.required("name");
        object.finish();
        name
    };
    spec.objects("imagePullSecrets").into_iter().filter_map(name).collect()
}

fn operating_system(spec: &Object<'_>) {
    let Some(os) = spec.object("os") else { return };
    os.word("name", &[("linux", ())]);
    os.finish();
}
