//! Checks that the ConfigMaps, Secrets and claims of a Pod exist: kubelet would wait for them forever.

use std::collections::BTreeSet;

use serde_json::Value;

use super::env::{EnvSource, KeyRef};
use super::projection::Projection;
use super::{Container, Data, Objects, Pod, VolumeSource};

/// The objects that the pod needs and the documents lack, one line each.
pub fn missing(pod: &Pod, objects: &Objects) -> Vec<String> {
    let mut found = Vec::new();
    let lists = [("initContainers", &pod.init_containers), ("containers", &pod.containers)];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            of_container(pod, objects, container, &format!("spec.{list}[{index}]"), &mut found);
        }
    }
    for (index, volume) in pod.volumes.iter().enumerate() {
        let VolumeSource::Projected(projected) = &volume.source else { continue };
        for source in &projected.sources {
            let Projection::Keys { name, is_secret, optional: false, items } = source else { continue };
            let keys = items.iter().flatten().map(|item| item.key.as_str());
            for problem in problems(pod, objects, name, *is_secret, keys, Data::get) {
                found.push(format!("spec.volumes[{index}]: {problem}"));
            }
        }
    }
    found
}

/// The documents of objects that the pod uses.
pub fn used(pod: &Pod, documents: &[Value]) -> Vec<Value> {
    let names = names(pod);
    let is_used = |document: &&Value| {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let namespace = text(&document["metadata"]["namespace"]).unwrap_or_else(|| "default".to_owned());
        let (kind, name) = (text(&document["kind"]), text(&document["metadata"]["name"]));
        namespace == pod.namespace && names.contains(&(kind.unwrap_or_default(), name.unwrap_or_default()))
    };
    documents.iter().filter(is_used).cloned().collect()
}

/// Kinds and names.
fn names(pod: &Pod) -> BTreeSet<(String, String)> {
    let mut names = BTreeSet::new();
    let mut add = |kind: &str, name: &String| {
        names.insert((kind.to_owned(), name.clone()));
    };
    let kind = |is_secret: bool| if is_secret { "Secret" } else { "ConfigMap" };
    pod.image_pull_secrets.iter().for_each(|name| add("Secret", name));
    for container in pod.all_containers() {
        container.env_from.iter().for_each(|from| add(kind(from.is_secret), &from.name));
        for variable in &container.env {
            match &variable.source {
                EnvSource::ConfigMap(reference) => add("ConfigMap", &reference.name),
                EnvSource::Secret(reference) => add("Secret", &reference.name),
                EnvSource::Value(_) | EnvSource::Field(_) | EnvSource::Resource(_) => {}
            }
        }
    }
    for volume in &pod.volumes {
        match &volume.source {
            VolumeSource::Claim { name, .. } => add("PersistentVolumeClaim", name),
            VolumeSource::Projected(projected) => {
                for source in &projected.sources {
                    if let Projection::Keys { name, is_secret, .. } = source {
                        add(kind(*is_secret), name);
                    }
                }
            }
            VolumeSource::EmptyDir { .. } | VolumeSource::HostPath { .. } | VolumeSource::Image { .. } => {}
        }
    }
    names
}

fn of_container(pod: &Pod, objects: &Objects, container: &Container, at: &str, found: &mut Vec<String>) {
    for (index, variable) in container.env.iter().enumerate() {
        let (KeyRef { name, key, optional }, is_secret) = match &variable.source {
            EnvSource::ConfigMap(reference) => (reference, false),
            EnvSource::Secret(reference) => (reference, true),
            EnvSource::Value(_) | EnvSource::Field(_) | EnvSource::Resource(_) => continue,
        };
        if *optional {
            continue;
        }
        let keys = std::iter::once(key.as_str());
        for problem in problems(pod, objects, name, is_secret, keys, Data::variable) {
            found.push(format!("{at}.env[{index}].valueFrom: {problem}"));
        }
    }
    for (index, from) in container.env_from.iter().enumerate().filter(|(_, from)| !from.optional) {
        for problem in problems(pod, objects, &from.name, from.is_secret, std::iter::empty(), Data::variable)
        {
            found.push(format!("{at}.envFrom[{index}]: {problem}"));
        }
    }
}

fn problems<'a>(
    pod: &Pod,
    objects: &Objects,
    name: &str,
    is_secret: bool,
    keys: impl Iterator<Item = &'a str>,
    value: for<'b> fn(&'b Data, &str) -> Option<&'b [u8]>,
) -> Vec<String> {
    let kind = if is_secret { "Secret" } else { "ConfigMap" };
    let Some(data) = objects.data(&pod.namespace, name, is_secret) else {
        let namespace = &pod.namespace;
        return vec![format!("there is no {kind} {name:?} of the namespace {namespace} in the manifests")];
    };
    keys.filter(|key| value(data, key).is_none())
        .map(|key| format!("{kind} {name:?} has no key {key:?}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn a_pod_takes_along_what_it_uses_and_nothing_else() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  imagePullSecrets: [{name: pull}]\n  volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]\n  containers: [{name: a, image: b, envFrom: [{configMapRef: {name: m}}]}]\n";
        let object = |kind: &str, name: &str| {
            format!("---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n")
        };
        let all = [("Secret", "pull"), ("Secret", "m"), ("ConfigMap", "m"), ("PersistentVolumeClaim", "c")];
        let text: String = all.iter().map(|(kind, name)| object(kind, name)).collect();
        let manifests = parse("m", &format!("{pod}{text}")).unwrap();
        let used = used(&manifests.pods[0].pod, &manifests.others);
        let kinds: Vec<_> = used.iter().map(|document| document["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Secret", "ConfigMap", "PersistentVolumeClaim"]);
        assert_eq!(used[0]["metadata"]["name"], "pull");
    }
}
