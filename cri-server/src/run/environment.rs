//! The environment of a container: values of ConfigMaps, Secrets and the Pod's fields, in the order in which
//! later ones replace earlier ones.

use super::manifest::{Container, Data, EnvSource, KeyRef, Objects, Pod, expand};
use super::pod_fields::{PodFields, resource};

/// All variables, each name once.
pub fn environment(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    fields: &PodFields,
) -> Vec<(String, Vec<u8>)> {
    let mut env: Vec<(String, Vec<u8>)> = Vec::new();
    for from in &container.env_from {
        let data = objects.data(&pod.namespace, &from.name, from.is_secret);
        for (key, value) in data.into_iter().flat_map(Data::variables) {
            set(&mut env, format!("{}{key}", from.prefix), value.to_vec());
        }
    }
    for variable in &container.env {
        let key = |reference: &KeyRef, is_secret| {
            let data = objects.data(&pod.namespace, &reference.name, is_secret)?;
            data.variable(&reference.key).map(<[u8]>::to_vec)
        };
        let value = match &variable.source {
            EnvSource::Value(text) => Some(expand(text, |name| lookup(&env, name)).into_bytes()),
            EnvSource::Field(field) => Some(fields.text(field).into_bytes()),
            EnvSource::Resource(wanted) => {
                Some(resource(pod, Some(container), wanted).to_string().into_bytes())
            }
            EnvSource::ConfigMap(reference) => key(reference, false),
            EnvSource::Secret(reference) => key(reference, true),
        };
        // A missing optional key sets no variable.
        if let Some(value) = value {
            set(&mut env, variable.name.clone(), value);
        }
    }
    env
}

fn set(env: &mut Vec<(String, Vec<u8>)>, name: String, value: Vec<u8>) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some(known) => known.1 = value,
        None => env.push((name, value)),
    }
}

/// The value of a variable, for `$(NAME)`.
pub fn lookup(env: &[(String, Vec<u8>)], name: &str) -> Option<String> {
    let found = env.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::manifest::parse;
    use super::*;

    const DOCUMENTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {A: "1", B: "2"}
binaryData: {STORE: AAE=}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {key: aHVudGVyMg==}
stringData: {B: "3"}
---
apiVersion: v1
kind: Pod
metadata: {name: p, uid: u1}
spec:
  containers:
  - name: a
    image: b
    envFrom:
    - configMapRef: {name: c}
    - prefix: S_
      secretRef: {name: s}
    - configMapRef: {name: nothing, optional: true}
    env:
    - {name: B, value: "$(A)-$(S_key)"}
    - name: K
      valueFrom: {secretKeyRef: {name: s, key: key}}
    - name: O
      valueFrom: {configMapKeyRef: {name: c, key: none, optional: true}}
    - name: U
      valueFrom: {fieldRef: {fieldPath: metadata.uid}}
    - {name: Z, value: "$(U)$(O)"}
"#;

    #[test]
    fn later_ones_replace_earlier_ones_and_may_use_them() {
        let manifests = parse("m", DOCUMENTS).unwrap();
        let pod = &manifests.pods[0].pod;
        let fields = PodFields::of(pod, "u1");
        let env = environment(pod, &pod.containers[0], &manifests.objects, &fields);
        let text: Vec<_> =
            env.iter().map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value))).collect();
        assert_eq!(text, ["A=1", "B=1-hunter2", "S_B=3", "S_key=hunter2", "K=hunter2", "U=u1", "Z=u1$(O)"]);
        assert!(!format!("{:?}", manifests.objects).contains("hunter2"));
    }
}
