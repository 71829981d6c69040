//! Byte compatibility with another implementation of the same contract, the k8s-cri crate, in both directions
//! and for every message that crate knows.
//!
//! A message of ours is filled field by field from our own descriptors (every field, every level, each value
//! different), encoded, and read by both crates' types. What k8s-cri writes must be what we wrote, less the
//! fields that are newer than it; what we read from it must be all it wrote.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeSet;

use k8s_cri::v1 as theirs;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use crisp_proto::runtime::v1 as ours;

/// Messages of ours that k8s-cri 0.11 does not have yet.
const NEWER: &[&str] = &[
    "StreamPodSandboxesRequest",
    "StreamPodSandboxesResponse",
    "StreamPodSandboxStatsRequest",
    "StreamPodSandboxStatsResponse",
    "StreamContainersRequest",
    "StreamContainersResponse",
    "StreamImagesRequest",
    "StreamImagesResponse",
    "StreamContainerStatsRequest",
    "StreamContainerStatsResponse",
    "PsiStats",
    "PsiData",
    "IoUsage",
    "CheckpointPodRequest",
    "CheckpointPodResponse",
    "RestorePodRequest",
    "RestoredContainer",
    "RestorePodResponse",
    "StreamPodSandboxMetricsRequest",
    "StreamPodSandboxMetricsResponse",
    "UpdatePodSandboxResourcesRequest",
    "UpdatePodSandboxResourcesResponse",
];

/// Fields of ours, in messages that k8s-cri has, that it does not have yet: a change in either shows here.
const NEWER_FIELDS: &[&str] = &[
    "Mount.image_sub_path",
    "Mount.mount_options",
    "LinuxPodSandboxStats.io",
    "ImageSpec.image_ref",
    "ContainerConfig.stop_signal",
    "ContainerStatus.stop_signal",
    "RuntimeFeatures.mount_options",
    "RuntimeFeatures.user_namespaces_host_network",
    "ContainerStats.io",
    "CpuUsage.psi",
    "MemoryUsage.psi",
];

/// The data for the comparison of one message, type erased.
struct Pair {
    name: &'static str,
    /// Names of the fields of k8s-cri's type.
    their_fields: fn() -> BTreeSet<String>,
    through_ours: fn(&[u8]) -> Vec<u8>,
    through_theirs: fn(&[u8]) -> Vec<u8>,
}

fn through<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).unwrap().encode_to_vec()
}

fn field_names(message: serde_json::Result<serde_json::Value>) -> BTreeSet<String> {
    match message.unwrap() {
        serde_json::Value::Object(fields) => fields.into_iter().map(|(name, _)| name).collect(),
        other => panic!("{other}"),
    }
}

macro_rules! pairs {
    ($($name:ident),* $(,)?) => {
        /// Every message that both have.
        const PAIRS: &[Pair] = &[$(Pair {
            name: <ours::$name as Name>::NAME,
            their_fields: || field_names(serde_json::to_value(theirs::$name::default())),
            through_ours: through::<ours::$name>,
            through_theirs: through::<theirs::$name>,
        }),*];
    };
}

pairs![
    VersionRequest,
    VersionResponse,
    DnsConfig,
    PortMapping,
    Mount,
    IdMapping,
    UserNamespace,
    NamespaceOption,
    Int64Value,
    LinuxSandboxSecurityContext,
    SecurityProfile,
    LinuxPodSandboxConfig,
    PodSandboxMetadata,
    PodSandboxConfig,
    RunPodSandboxRequest,
    RunPodSandboxResponse,
    StopPodSandboxRequest,
    StopPodSandboxResponse,
    RemovePodSandboxRequest,
    RemovePodSandboxResponse,
    PodSandboxStatusRequest,
    PodIp,
    PodSandboxNetworkStatus,
    Namespace,
    LinuxPodSandboxStatus,
    PodSandboxStatus,
    PodSandboxStatusResponse,
    PodSandboxStateValue,
    PodSandboxFilter,
    ListPodSandboxRequest,
    PodSandbox,
    ListPodSandboxResponse,
    PodSandboxStatsRequest,
    PodSandboxStatsResponse,
    PodSandboxStatsFilter,
    ListPodSandboxStatsRequest,
    ListPodSandboxStatsResponse,
    PodSandboxAttributes,
    PodSandboxStats,
    LinuxPodSandboxStats,
    WindowsPodSandboxStats,
    NetworkUsage,
    WindowsNetworkUsage,
    NetworkInterfaceUsage,
    WindowsNetworkInterfaceUsage,
    ProcessUsage,
    WindowsProcessUsage,
    ImageSpec,
    KeyValue,
    LinuxContainerResources,
    HugepageLimit,
    SeLinuxOption,
    Capability,
    LinuxContainerSecurityContext,
    LinuxContainerConfig,
    LinuxContainerUser,
    WindowsNamespaceOption,
    WindowsSandboxSecurityContext,
    WindowsPodSandboxConfig,
    WindowsContainerSecurityContext,
    WindowsContainerConfig,
    WindowsContainerResources,
    WindowsCpuGroupAffinity,
    ContainerMetadata,
    Device,
    CdiDevice,
    ContainerConfig,
    CreateContainerRequest,
    CreateContainerResponse,
    StartContainerRequest,
    StartContainerResponse,
    StopContainerRequest,
    StopContainerResponse,
    RemoveContainerRequest,
    RemoveContainerResponse,
    ContainerStateValue,
    ContainerFilter,
    ListContainersRequest,
    Container,
    ListContainersResponse,
    ContainerStatusRequest,
    ContainerStatus,
    ContainerStatusResponse,
    ContainerResources,
    ContainerUser,
    UpdateContainerResourcesRequest,
    UpdateContainerResourcesResponse,
    ExecSyncRequest,
    ExecSyncResponse,
    ExecRequest,
    ExecResponse,
    AttachRequest,
    AttachResponse,
    PortForwardRequest,
    PortForwardResponse,
    ImageFilter,
    ListImagesRequest,
    Image,
    ListImagesResponse,
    ImageStatusRequest,
    ImageStatusResponse,
    AuthConfig,
    PullImageRequest,
    PullImageResponse,
    RemoveImageRequest,
    RemoveImageResponse,
    NetworkConfig,
    RuntimeConfig,
    UpdateRuntimeConfigRequest,
    UpdateRuntimeConfigResponse,
    RuntimeCondition,
    RuntimeStatus,
    StatusRequest,
    RuntimeHandlerFeatures,
    RuntimeHandler,
    RuntimeFeatures,
    StatusResponse,
    ImageFsInfoRequest,
    UInt64Value,
    FilesystemIdentifier,
    FilesystemUsage,
    WindowsFilesystemUsage,
    ImageFsInfoResponse,
    ContainerStatsRequest,
    ContainerStatsResponse,
    ListContainerStatsRequest,
    ContainerStatsFilter,
    ListContainerStatsResponse,
    ContainerAttributes,
    ContainerStats,
    WindowsContainerStats,
    CpuUsage,
    WindowsCpuUsage,
    MemoryUsage,
    SwapUsage,
    WindowsMemoryUsage,
    ReopenContainerLogRequest,
    ReopenContainerLogResponse,
    CheckpointContainerRequest,
    CheckpointContainerResponse,
    GetEventsRequest,
    ContainerEventResponse,
    ListMetricDescriptorsRequest,
    ListMetricDescriptorsResponse,
    MetricDescriptor,
    ListPodSandboxMetricsRequest,
    ListPodSandboxMetricsResponse,
    PodSandboxMetrics,
    ContainerMetrics,
    Metric,
    RuntimeConfigRequest,
    RuntimeConfigResponse,
    LinuxRuntimeConfiguration,
];

fn pool() -> DescriptorPool {
    let files = protox::compile(["runtime/v1/runtime.proto"], ["proto"]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

/// The name prost gives to a field: the contract has a few in mixed case.
fn rust_name(field: &FieldDescriptor) -> String {
    let mut name = String::new();
    let mut lower_before = false;
    for c in field.name().chars() {
        if c.is_ascii_uppercase() && lower_before {
            name.push('_');
        }
        lower_before = c.is_ascii_lowercase();
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// Fills every field of `message` and of those in it; `counter` makes each value another one.
fn fill(message: &mut DynamicMessage, counter: &mut u32) {
    for field in message.descriptor().fields() {
        let value = if field.is_map() {
            Value::Map(
                (0..2)
                    .map(|_| {
                        *counter += 1;
                        let key = MapKey::String(format!("key-{counter}"));
                        (key, Value::String(format!("value-{counter}")))
                    })
                    .collect(),
            )
        } else if field.is_list() {
            Value::List((0..2).map(|_| sample(&field.kind(), counter)).collect())
        } else {
            sample(&field.kind(), counter)
        };
        message.set_field(&field, value);
    }
}

fn sample(kind: &Kind, counter: &mut u32) -> Value {
    *counter += 1;
    let n = *counter;
    match kind {
        Kind::String => Value::String(format!("text-{n}")),
        // UTF-8, since KeyValue.value was a string when k8s-cri was made. The wire form is the same.
        Kind::Bytes => Value::Bytes(format!("bytes-{n}").into()),
        Kind::Bool => Value::Bool(true),
        // Negative and large, so that a wrong width or zigzag shows.
        Kind::Int32 => Value::I32(-(n as i32)),
        Kind::Int64 => Value::I64(-(1 << 40) - i64::from(n)),
        Kind::Uint32 => Value::U32(n),
        Kind::Uint64 => Value::U64(u64::MAX - u64::from(n)),
        Kind::Double => Value::F64(f64::from(n) + 0.5),
        Kind::Enum(values) => Value::EnumNumber(values.values().last().unwrap().number()),
        Kind::Message(inner) => {
            let mut message = DynamicMessage::new(inner.clone());
            fill(&mut message, counter);
            Value::Message(message)
        }
        other => panic!("the contract has no {other:?}"),
    }
}

/// Takes out of `message`, at every level, what k8s-cri cannot know.
fn prune(message: &mut DynamicMessage) {
    let name = message.descriptor().name().to_owned();
    let Some(pair) = PAIRS.iter().find(|p| p.name == name) else {
        panic!("{name} is newer than k8s-cri, but a message of its has it as a field");
    };
    let known = (pair.their_fields)();
    for field in message.descriptor().fields() {
        if !known.contains(&rust_name(&field)) {
            message.clear_field(&field);
            continue;
        }
        if field.is_map() {
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(inner) => prune(inner),
            Value::List(list) => list.iter_mut().for_each(|v| {
                if let Value::Message(inner) = v {
                    prune(inner);
                }
            }),
            _ => {}
        }
    }
}

#[test]
fn every_message_survives_both_directions() {
    let pool = pool();
    for pair in PAIRS {
        let descriptor = pool.get_message_by_name(&format!("runtime.v1.{}", pair.name)).unwrap();
        let mut full = DynamicMessage::new(descriptor.clone());
        fill(&mut full, &mut 0);
        let bytes = full.encode_to_vec();
        let read = |bytes: &[u8]| DynamicMessage::decode(descriptor.clone(), bytes).unwrap();

        assert_eq!(read(&(pair.through_ours)(&bytes)), full, "{}: our own type loses something", pair.name);

        let mut known = full.clone();
        prune(&mut known);
        let from_them = (pair.through_theirs)(&bytes);
        assert_eq!(read(&from_them), known, "{}: k8s-cri reads ours differently", pair.name);
        assert_eq!(
            read(&(pair.through_ours)(&from_them)),
            known,
            "{}: we read k8s-cri differently",
            pair.name
        );
    }
}

#[test]
fn messages_newer_than_k8s_cri_survive_our_own_types() {
    macro_rules! survives {
        ($pool:expr, $($name:ident),* $(,)?) => {{
            $(
                let descriptor = $pool.get_message_by_name(&ours::$name::full_name()).unwrap();
                let mut full = DynamicMessage::new(descriptor.clone());
                fill(&mut full, &mut 0);
                let bytes = through::<ours::$name>(&full.encode_to_vec());
                assert_eq!(DynamicMessage::decode(descriptor, &bytes[..]).unwrap(), full, "{}", ours::$name::NAME);
            )*
            [$(ours::$name::NAME),*]
        }};
    }
    let seen = survives![
        pool(),
        StreamPodSandboxesRequest,
        StreamPodSandboxesResponse,
        StreamPodSandboxStatsRequest,
        StreamPodSandboxStatsResponse,
        StreamContainersRequest,
        StreamContainersResponse,
        StreamImagesRequest,
        StreamImagesResponse,
        StreamContainerStatsRequest,
        StreamContainerStatsResponse,
        PsiStats,
        PsiData,
        IoUsage,
        CheckpointPodRequest,
        CheckpointPodResponse,
        RestorePodRequest,
        RestoredContainer,
        RestorePodResponse,
        StreamPodSandboxMetricsRequest,
        StreamPodSandboxMetricsResponse,
        UpdatePodSandboxResourcesRequest,
        UpdatePodSandboxResourcesResponse,
    ];
    assert_eq!(seen, NEWER);
}

#[test]
fn no_message_is_left_out() {
    let compared: BTreeSet<String> = PAIRS.iter().map(|p| p.name.to_owned()).collect();
    let listed: BTreeSet<String> =
        NEWER.iter().map(|n| (*n).to_owned()).chain(compared.iter().cloned()).collect();
    let ours: BTreeSet<String> = pool()
        .all_messages()
        .filter(|m| !m.is_map_entry() && m.parent_file().package_name() == "runtime.v1")
        .map(|m| m.name().to_owned())
        .collect();
    assert_eq!(ours, listed);
    assert!(NEWER.iter().all(|n| !compared.contains(*n)));
}

#[test]
fn neither_side_has_fields_that_the_other_lacks_unnoticed() {
    let pool = pool();
    let mut newer = Vec::new();
    for pair in PAIRS {
        let descriptor = pool.get_message_by_name(&format!("runtime.v1.{}", pair.name)).unwrap();
        let ours: BTreeSet<String> = descriptor.fields().map(|f| rust_name(&f)).collect();
        let theirs = (pair.their_fields)();
        let unknown: Vec<_> = theirs.difference(&ours).collect();
        assert!(unknown.is_empty(), "{} of k8s-cri has fields that ours lacks: {unknown:?}", pair.name);
        newer.extend(ours.difference(&theirs).map(|f| format!("{}.{f}", pair.name)));
    }
    assert_eq!(newer, NEWER_FIELDS);
}

#[test]
fn enum_values_have_the_same_numbers_and_names() {
    let pool = pool();
    macro_rules! same {
        ($($name:literal = $theirs:ty),* $(,)?) => {$(
            let descriptor = pool.get_enum_by_name(concat!("runtime.v1.", $name)).unwrap();
            for value in descriptor.values() {
                let other = <$theirs>::try_from(value.number()).unwrap();
                assert_eq!(other.as_str_name(), value.name(), "{}", $name);
            }
            assert!(<$theirs>::try_from(descriptor.values().len() as i32).is_err(), "{} has more values", $name);
        )*};
    }
    same! {
        "Protocol" = theirs::Protocol,
        "MountPropagation" = theirs::MountPropagation,
        "NamespaceMode" = theirs::NamespaceMode,
        "SupplementalGroupsPolicy" = theirs::SupplementalGroupsPolicy,
        "PodSandboxState" = theirs::PodSandboxState,
        "ContainerState" = theirs::ContainerState,
        "ContainerEventType" = theirs::ContainerEventType,
        "MetricType" = theirs::MetricType,
        "CgroupDriver" = theirs::CgroupDriver,
        "SecurityProfile.ProfileType" = theirs::security_profile::ProfileType,
    }
}
