use super::pod::HostAlias;
use super::*;

fn read(spec: &str) -> Result<Pod, ManifestError> {
    let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
    parse("pod.yaml", &format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n{spec}"))
}

fn problems(spec: &str) -> Vec<String> {
    match read(spec) {
        Err(ManifestError::Refused { problems, .. }) => problems,
        other => panic!("{other:?}"),
    }
}

const ONE: &str = "containers: [{name: a, image: busybox}]";

#[test]
fn a_full_manifest_is_read() {
    let pod = parse("pod.yaml", include_str!("full.yaml")).unwrap();
    assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("shop", "market"));
    assert_eq!(pod.labels["app"], "shop");
    assert_eq!(pod.restart_policy, RestartPolicy::OnFailure);
    assert_eq!(pod.grace, 5);
    assert_eq!(pod.init_containers[0].name, "prepare");
    assert_eq!(pod.dns.options, ["ndots:2", "rotate"]);
    assert_eq!(
        pod.host_aliases[0],
        HostAlias { ip: "10.0.0.1".into(), names: vec!["db".into(), "db.local".into()] }
    );
    assert_eq!(pod.security.sysctls["net.ipv4.ip_unprivileged_port_start"], "80");
    let web = &pod.containers[0];
    assert_eq!(web.env, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)2".to_owned())]);
    let port =
        Port { container: 80, host: Some(8080), host_ip: Some("127.0.0.1".into()), protocol: Protocol::Tcp };
    assert_eq!(web.ports, [port]);
    let resources = Resources {
        cpu_request: Some(100),
        cpu_limit: Some(500),
        memory_request: Some(64 << 20),
        memory_limit: Some(64 << 20),
    };
    assert_eq!(web.resources, resources);
    assert_eq!(web.security.drop_capabilities, ["ALL"]);
    assert_eq!(web.security.add_capabilities, ["NET_BIND_SERVICE"]);
    assert_eq!(web.security.seccomp, Some(Profile::RuntimeDefault));
    assert!(web.mounts[0].read_only);
    assert_eq!(pod.volumes[1].source, VolumeSource::EmptyDir { memory: true, size: Some(1 << 20) });
}

#[test]
fn defaults_are_those_of_kubernetes() {
    let pod = read(ONE).unwrap();
    assert_eq!(pod.restart_policy, RestartPolicy::Always);
    assert_eq!((pod.grace, pod.namespace.as_str()), (30, "default"));
    assert_eq!(pod.containers[0].pull, PullPolicy::Always, "no tag is latest");
    let policy = |image: &str| {
        read(&format!("containers: [{{name: a, image: '{image}'}}]")).unwrap().containers[0].pull
    };
    assert_eq!(policy("h:5000/a"), PullPolicy::Always, "a port is no tag");
    assert_eq!(policy("h:5000/a:1"), PullPolicy::IfNotPresent);
    assert_eq!(policy(&format!("a@sha256:{}", "0".repeat(64))), PullPolicy::IfNotPresent);
}

#[test]
fn an_unsupported_field_is_refused_with_its_path() {
    let found = problems(
        "containers:\n- name: a\n  image: b\n  livenessProbe: {httpGet: {port: 80}}\nnodeName: n\nvolumes:\n- {name: v, configMap: {name: c}}",
    );
    assert_eq!(
        found,
        [
            "spec.containers[0].livenessProbe: not supported by crisp run yet",
            "spec.volumes[0].configMap: not supported by crisp run yet",
            "spec.nodeName: not supported by crisp run yet",
        ]
    );
}

#[test]
fn a_mistyped_field_is_told_from_an_unsupported_one() {
    assert_eq!(
        problems(&format!("{ONE}\nrestartPolcy: Never")),
        ["spec.restartPolcy: is no field of a Kubernetes Pod here"]
    );
}

#[test]
fn fields_that_say_nothing_are_no_problem() {
    read(&format!("{ONE}\nnodeSelector: {{}}\ntolerations: []\naffinity: null")).unwrap();
    read("containers: [{name: a, image: b, resources: {}, livenessProbe: null}]").unwrap();
    read("containers: [{name: a, image: b, args: null, command: null, env: null, ports: null}]").unwrap();
}

#[test]
fn every_mistake_is_named_at_its_place() {
    for (spec, expected) in [
        ("containers: []", "spec.containers: at least one is required"),
        ("containers: [{image: b}]", "spec.containers[0].name: is required"),
        ("containers: [{name: A_, image: b}]", "spec.containers[0].name: \"A_\" is not a name"),
        (
            "containers: [{name: a, image: b, args: [1]}]",
            "spec.containers[0].args[0]: expected a text, found the number 1",
        ),
        (
            "containers: [{name: a, image: b, env: [{name: X, value: true}]}]",
            "spec.containers[0].env[0].value: expected a text, found true",
        ),
        (
            "containers: [{name: a, image: b, env: [{name: X, valueFrom: {fieldRef: {fieldPath: x}}}]}]",
            "spec.containers[0].env[0].valueFrom.fieldRef: not supported",
        ),
        (
            "containers: [{name: a, image: b}, {name: a, image: b}]",
            "spec.containers[1].name: \"a\" is there twice",
        ),
        (
            "containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]",
            "spec.containers[0].volumeMounts[0].name: there is no volume \"v\"",
        ),
        (
            "containers: [{name: a, image: b, ports: [{containerPort: 70000}]}]",
            "spec.containers[0].ports[0].containerPort: 70000 is out of range",
        ),
        (
            "containers: [{name: a, image: b, resources: {limits: {cpu: lots}}}]",
            "spec.containers[0].resources.limits.cpu: \"lots\" is not a quantity",
        ),
        (
            "containers: [{name: a, image: b, resources: {limits: {nvidia.com/gpu: 1}}}]",
            "spec.containers[0].resources.limits.nvidia.com/gpu: not supported",
        ),
        (
            "containers: [{name: a, image: b, resources: {limits: {cpu: 1}, requests: {cpu: 2}}}]",
            "spec.containers[0].resources.requests.cpu: is more than the limit",
        ),
        (
            "containers: [{name: a, image: b}]\nrestartPolicy: Sometimes",
            "spec.restartPolicy: \"Sometimes\" is none of Always",
        ),
        (
            "containers: [{name: a, image: b}]\nvolumes: [{name: v}]",
            "spec.volumes[0].name: a volume needs a source",
        ),
        (
            "containers: [{name: a, image: b}]\nvolumes: [{name: v, hostPath: {path: x}}]",
            "spec.volumes[0].hostPath.path: must be an absolute path",
        ),
        (
            "containers: [{name: a, image: b}]\ninitContainers: [{name: i, image: b, restartPolicy: Always}]",
            "spec.initContainers[0].restartPolicy: sidecars",
        ),
        ("containers: [{name: a, image: b, stdin: true}]", "spec.containers[0].stdin: not supported"),
        (
            "containers: [{name: a, image: b}]\ndnsPolicy: None",
            "spec.dnsConfig: dnsPolicy None needs nameservers",
        ),
        ("containers: nothing", "spec.containers: expected a list, found the text \"nothing\""),
        ("containers: [x]", "spec.containers[0]: expected a mapping"),
    ] {
        let found = problems(spec);
        assert!(
            found.iter().any(|p| p.starts_with(expected)),
            "{spec}\nexpected {expected}\nfound {found:#?}"
        );
    }
}

#[test]
fn what_is_no_pod_is_refused() {
    let error = |text| parse("x.yaml", text).unwrap_err().to_string();
    assert!(error("a: [").starts_with("x.yaml is not YAML"), "{}", error("a: ["));
    assert!(error("- a").contains("the manifest: expected a mapping"));
    let deployment = error("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 1}");
    assert!(deployment.contains("kind: \"Deployment\": crisp run knows only Pod"), "{deployment}");
    assert!(error("apiVersion: v1\nkind: Pod\nmetadata: {name: a}").contains("spec: is required"));
    assert!(error("apiVersion: v1\nkind: Pod\nkind: Pod").contains("x.yaml is not YAML"), "keys are unique");
}

#[test]
fn a_uid_that_is_a_path_is_refused() {
    // A folder of the run is named after it, and removed at the end.
    for bad in ["../../../../home", "/etc", ".", "..", "a/b"] {
        for field in ["uid", "namespace"] {
            let text =
                format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, {field}: {bad:?}}}\nspec:\n  {ONE}");
            let error = parse("pod.yaml", &text).unwrap_err().to_string();
            assert!(error.contains(&format!("metadata.{field}: ")), "{bad:?}: {error}");
        }
    }
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, uid: 8C2F1E36-0d6b-4b43-8b0a-6f3f3a1d2c11}}\nspec:\n  {ONE}"
    );
    assert!(parse("pod.yaml", &text).is_ok());
}
