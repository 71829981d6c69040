use super::*;

fn one(text: &str) -> Result<Pod, ManifestError> {
    parse("pod.yaml", text).map(|mut manifests| manifests.pods.remove(0).pod)
}

fn read(spec: &str) -> Result<Pod, ManifestError> {
    let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
    one(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n{spec}"))
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
    let pod = one(include_str!("full.yaml")).unwrap();
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
    let variable =
        |name: &str, value: &str| EnvVar { name: name.into(), source: EnvSource::Value(value.into()) };
    assert_eq!(web.env, [variable("A", "1"), variable("B", "$(A)2")]);
    let port = Port {
        name: "http".into(),
        container: 80,
        host: Some(8080),
        host_ip: Some("127.0.0.1".into()),
        protocol: Protocol::Tcp,
    };
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
        "containers:\n- name: a\n  image: b\n  volumeDevices: [{name: d, devicePath: /dev/x}]\nsubdomain: n\nvolumes:\n- {name: v, nfs: {server: c, path: /}}",
    );
    assert_eq!(
        found,
        [
            "spec.containers[0].volumeDevices: not supported by crisp run yet",
            "spec.volumes[0].nfs: not supported by crisp run yet",
            "spec.subdomain: not supported by crisp run yet",
        ]
    );
}

#[test]
fn a_mistyped_field_is_told_from_an_unsupported_one() {
    for (spec, expected) in [
        ("restartPolcy: Never", "spec.restartPolcy: is no field here: is restartPolicy meant?"),
        ("livenessProbe: {}", "spec.livenessProbe: is no field here"),
    ] {
        assert_eq!(problems(&format!("{ONE}\n{spec}")), [expected]);
    }
}

#[test]
fn fields_for_a_scheduler_are_accepted_and_named() {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, resourceVersion: '5'}}\nspec:\n  {ONE}\n  nodeSelector: {{a: b}}\n  tolerations: [{{operator: Exists}}]\n  affinity: {{}}\nstatus: {{phase: Running}}\n"
    );
    let found = parse("pod.yaml", &text).unwrap().without_effect;
    assert_eq!(found, ["status", "metadata.resourceVersion", "spec.nodeSelector", "spec.tolerations"]);
}

#[test]
fn fields_that_say_nothing_are_no_problem() {
    read(&format!("{ONE}\nnodeSelector: {{}}\ntolerations: []\naffinity: null")).unwrap();
    read("containers: [{name: a, image: b, resources: {}, livenessProbe: null, volumeDevices: []}]").unwrap();
    read("containers: [{name: a, image: b, args: null, command: null, env: null, ports: null}]").unwrap();
}

/// Part of a spec, and the beginning of its error.
const MISTAKES: &[(&str, &str)] = &[
    ("containers: []", "spec.containers: at least one is required"),
    ("containers: [{image: b}]", "spec.containers[0].name: is required"),
    ("containers: [{name: A_, image: b}]", "spec.containers[0].name: \"A_\" is not a name"),
    (
        "containers: [{name: a, image: b, args: [1]}]",
        "spec.containers[0].args[0]: expected a text, found a number",
    ),
    (
        "containers: [{name: a, image: b, env: [{name: X, value: true}]}]",
        "spec.containers[0].env[0].value: expected a text, found true or false",
    ),
    (
        "containers: [{name: a, image: b, env: [{name: X, valueFrom: {fieldRef: {fieldPath: x}}}]}]",
        "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: \"x\" is no field",
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
        "containers: [{name: a, image: b}]\ninitContainers: [{name: i, image: b, restartPolicy: Never}]",
        "spec.initContainers[0].restartPolicy: \"Never\" is none of Always",
    ),
    (
        "containers: [{name: a, image: b, env: [{name: X, valueFrom: {}}]}]",
        "spec.containers[0].env[0].valueFrom: needs exactly one of fieldRef",
    ),
    (
        "containers: [{name: a, image: b, env: [{name: X, valueFrom: {secretKeyRef: {name: s, key: k}}}]}]",
        "spec.containers[0].env[0].valueFrom: there is no Secret \"s\" of the namespace default",
    ),
    (
        "containers: [{name: a, image: b, livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}}]",
        "spec.containers[0].livenessProbe: needs exactly one of exec, httpGet",
    ),
    (
        "containers: [{name: a, image: b, livenessProbe: {successThreshold: 2, tcpSocket: {port: 1}}}]",
        "spec.containers[0].livenessProbe.successThreshold: must be 1",
    ),
    (
        "containers: [{name: a, image: b, readinessProbe: {httpGet: {port: 70000}}}]",
        "spec.containers[0].readinessProbe.httpGet.port: expected a port's number",
    ),
    (
        "containers: [{name: a, image: b, readinessProbe: {httpGet: {port: 80, path: 'x y'}}}]",
        "spec.containers[0].readinessProbe.httpGet.path: has a space",
    ),
    (
        "containers: [{name: a, image: b}]\ninitContainers: [{name: i, image: b, livenessProbe: {tcpSocket: {port: 1}}}]",
        "spec.initContainers[0].livenessProbe: is not for an init container that ends",
    ),
    (
        "containers: [{name: a, image: b, lifecycle: {stopSignal: SIGNOT}}]",
        "spec.containers[0].lifecycle.stopSignal: \"SIGNOT\" is no signal",
    ),
    (
        "containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v, subPath: ../x}]}]\nvolumes: [{name: v, emptyDir: {}}]",
        "spec.containers[0].volumeMounts[0].subPath: \"../x\" must be relative",
    ),
    (
        "containers: [{name: a, image: b}]\nvolumes: [{name: v, configMap: {name: c, items: [{key: k, path: /x}]}}]",
        "spec.volumes[0].configMap.items[0].path: \"/x\" must be relative",
    ),
    ("containers: [{name: a, image: b}]\nhostUsers: false", "spec.hostUsers: not supported"),
    ("containers: [{name: a, image: b}]\nactiveDeadlineSeconds: 0", "spec.activeDeadlineSeconds: must be"),
    (
        "containers: [{name: a, image: b}]\ndnsPolicy: None",
        "spec.dnsConfig: dnsPolicy None needs nameservers",
    ),
    (
        "containers: [{name: a, image: b}]\nvolumes: [{name: v, persistentVolumeClaim: {claimName: ..}}]",
        "spec.volumes[0].persistentVolumeClaim.claimName: \"..\" is not a name",
    ),
    ("containers: nothing", "spec.containers: expected a list, found a text"),
    ("containers: [x]", "spec.containers[0]: expected a mapping"),
];

#[test]
fn every_mistake_is_named_at_its_place() {
    for (spec, expected) in MISTAKES {
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
    let service = error("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}");
    assert!(service.contains("kind: \"Service\": crisp run knows only Pod"), "{service}");
    assert!(error("# nothing\n").contains("there is nothing in it"));
    assert!(error("apiVersion: v1\nkind: Pod\nmetadata: {name: a}").contains("spec: is required"));
    assert!(error("apiVersion: v1\nkind: Pod\nkind: Pod").contains("x.yaml is not YAML"), "keys are unique");
}

#[test]
fn a_uid_that_is_a_path_is_refused() {
    // A folder of the run is named after it and removed at the end.
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

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {type: Recreate}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: a, image: b}]}
---
# An empty document.
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  parallelism: 2
  backoffLimit: 1
  activeDeadlineSeconds: 9
  template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}
"#;

#[test]
fn a_deployment_and_a_job_are_as_many_pods_as_they_say() {
    let manifests = parse("m", DEPLOYMENT).unwrap();
    let names: Vec<_> =
        manifests.pods.iter().map(|p| format!("{}/{}", p.pod.namespace, p.pod.name)).collect();
    assert_eq!(names, ["shop/web-0", "shop/web-1", "shop/web-2", "default/once-0", "default/once-1"]);
    assert_eq!(manifests.without_effect, ["Deployment web: spec.strategy"]);
    // A pod's own document describes it completely.
    for PodDocument { pod, document } in &manifests.pods {
        let again = from_documents("x", vec![document.clone()]).unwrap().pods.remove(0).pod;
        assert_eq!((&again.name, &again.namespace, &again.labels), (&pod.name, &pod.namespace, &pod.labels));
        assert_eq!((again.backoff_limit, again.active_deadline), (pod.backoff_limit, pod.active_deadline));
    }
    let job = &manifests.pods[4].pod;
    assert_eq!((job.backoff_limit, job.active_deadline), (Some(1), Some(std::time::Duration::from_secs(9))));
    let refused = |from: &str, to: &str| parse("m", &DEPLOYMENT.replace(from, to)).unwrap_err().to_string();
    let text = refused("restartPolicy: Never", "restartPolicy: Always");
    assert!(
        text.contains("Job once: spec.template.spec.restartPolicy: must be Never or OnFailure"),
        "{text}"
    );
    let text = refused("replicas: 3", "replicas: 100000");
    assert!(text.contains("Deployment web: spec.replicas: 100000 pods are more"), "{text}");
}

/// Neither the wrong value nor the text around an error is shown.
#[test]
fn errors_do_not_show_secrets() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    for data in [
        "data: {password: 4711}",
        "stringData: hunter2",
        "stringData:\n  a: hunter2\n b: [",
        "data: {a: [hunter2]}",
    ] {
        let error = parse("m", &format!("{secret}{data}\n")).unwrap_err();
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains("hunter2") && !text.contains("4711"), "{text}");
        }
    }
    let text = format!("{secret}stringData: {{a: hunter2}}\n");
    assert!(!format!("{:?}", parse("m", &text).unwrap()).contains("hunter2"));
}

/// A variable with a zero byte in it could never be set.
#[test]
fn binary_data_is_for_files_alone() {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\nbinaryData: {key: AAE=}\n---\n";
    let pod = |source: &str| {
        format!(
            "{map}apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: a, image: b, {source}}}]}}\n"
        )
    };
    let by_key = "env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: key}}}]";
    let error = parse("m", &pod(by_key)).unwrap_err().to_string();
    assert!(error.contains("ConfigMap \"c\" has no key \"key\""), "{error}");
    assert!(parse("m", &pod("envFrom: [{configMapRef: {name: c}}]")).is_ok());
}

#[test]
fn objects_are_checked_like_pods() {
    let error = |text: &str| parse("m", text).unwrap_err().to_string();
    let map = |rest: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\n{rest}");
    for (text, expected) in [
        (map("data: {a/b: x}"), "data: \"a/b\" is no key"),
        (map("data: {..: x}"), "data: \"..\" is no key"),
        (map("dta: {a: x}"), "dta: is no field here: is data meant?"),
        (map("data: {a: 1}"), "data.a: expected a text, found a number"),
        (map("data: {a: x}\nbinaryData: {a: eA==}"), "binaryData.a: is in data, too"),
        (map("binaryData: {a: '%'}"), "binaryData.a: is not base64"),
        (format!("{0}\n---\n{0}", map("")), "ConfigMap c: metadata.name: is there twice"),
        (map(&format!("data: {{a: {}}}", "x".repeat(2 << 20))), "data: is larger than 1 MiB"),
    ] {
        let text = error(&text);
        assert!(text.contains(expected), "{expected}\n{}", &text[..text.len().min(500)]);
    }
}

#[test]
fn documents_that_grow_without_end_are_refused() {
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, before) in "bcdefghij".chars().zip("abcdefghi".chars()) {
        let line = vec![format!("*{before}"); 10].join(",");
        bomb.push_str(&format!("{name}: &{name} [{line}]\n"));
    }
    assert!(parse("m", &bomb).unwrap_err().to_string().contains("is not YAML"));
    let deep = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse("m", &deep).is_err());
    assert!(parse("m", "a:\n\tb: c").is_err());
}

#[test]
fn a_folder_is_all_manifests_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let pod =
        |name: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{ONE}}}\n");
    assert!(super::read(folder.path()).unwrap_err().to_string().contains("no file in it ends in .yaml"));
    std::fs::write(folder.path().join("2.yml"), pod("b")).unwrap();
    std::fs::write(folder.path().join("1.yaml"), pod("a")).unwrap();
    std::fs::write(folder.path().join("README"), "no manifest").unwrap();
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "c"}, "spec": {"containers": [{"name": "a", "image": "b"}]}}]}"#;
    std::fs::write(folder.path().join("3.json"), list).unwrap();
    let pods = super::read(folder.path()).unwrap().pods;
    assert_eq!(pods.iter().map(|p| p.pod.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}
