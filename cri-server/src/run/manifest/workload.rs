//! Documents that describe one pod or several: Pod, Deployment, Job.

use serde_json::{Value, json};

use super::metadata::{self, Metadata};
use super::pod::{BACKOFF_LIMIT, Pod, active_deadline, read_spec};
use super::strict_object::Object;
use super::{Map, RestartPolicy, extra, pod_check};

/// More pods in one document are probably a mistake.
const MOST_PODS: u32 = 1000;

/// A pod with a document that describes only this pod.
#[derive(Clone)]
pub struct PodDocument {
    pub pod: Pod,
    pub document: Value,
}

/// Reads a Pod.
pub fn read_pod(root: &Object<'_>) -> Vec<PodDocument> {
    root.without_effect(&["status"]);
    let (metadata, spec) = (required(root, "metadata"), required(root, "spec"));
    root.finish();
    let (Some(metadata), Some(spec)) = (metadata, spec) else { return Vec::new() };
    let names = metadata::read(&metadata, false);
    let mut pod = read_spec(&spec);
    name(&mut pod, &names, names.name.clone(), names.namespace.clone());
    pod.extra = extra::read(&metadata, &names.annotations);
    pod_check::check_joined(&spec, &pod);
    let limit = names.annotations.get(BACKOFF_LIMIT);
    pod.backoff_limit = limit.and_then(|limit| limit.parse().ok());
    if limit.is_some() && pod.backoff_limit.is_none() {
        metadata.refuse("annotations", format_args!("{BACKOFF_LIMIT} is no number"));
    }
    vec![PodDocument { document: document(&pod, root.value("spec")), pod }]
}

/// Reads a Deployment: makes `replicas` independent pods.
pub fn read_deployment(root: &Object<'_>) -> Vec<PodDocument> {
    let Some((names, spec)) = head(root) else { return Vec::new() };
    let replicas: u32 = spec.number("replicas").unwrap_or(1);
    spec.without_effect(&[
        "minReadySeconds",
        "paused",
        "progressDeadlineSeconds",
        "revisionHistoryLimit",
        "strategy",
    ]);
    // It selects the pods of the template, which are these.
    spec.has("selector");
    let Some(template) = template(&spec) else { return Vec::new() };
    spec.finish();
    if template.pod.restart_policy != RestartPolicy::Always {
        spec.refuse("template.spec.restartPolicy", "must be Always in a Deployment");
    }
    pods(&spec, "replicas", &names, replicas, &template)
}

/// Reads a Job: makes `parallelism` pods.
pub fn read_job(root: &Object<'_>) -> Vec<PodDocument> {
    let Some((names, spec)) = head(root) else { return Vec::new() };
    let parallelism: u32 = spec.number("parallelism").unwrap_or(1);
    let completions: Option<u32> = spec.number("completions");
    if completions.is_some_and(|completions| completions != parallelism) {
        spec.refuse("completions", "not supported by crisp run yet, except with the number of parallelism");
    }
    let backoff_limit: u32 = spec.number("backoffLimit").unwrap_or(6);
    let deadline = active_deadline(&spec);
    spec.word("completionMode", &[("NonIndexed", ())]);
    spec.without_effect(&["ttlSecondsAfterFinished", "selector", "manualSelector", "podReplacementPolicy"]);
    spec.unsupported(&[
        "backoffLimitPerIndex",
        "managedBy",
        "maxFailedIndexes",
        "podFailurePolicy",
        "successPolicy",
        "suspend",
    ]);
    let Some(mut template) = template(&spec) else { return Vec::new() };
    spec.finish();
    if template.pod.restart_policy == RestartPolicy::Always {
        spec.refuse("template.spec.restartPolicy", "must be Never or OnFailure in a Job");
    }
    let pod = &mut template.pod;
    pod.backoff_limit = Some(backoff_limit);
    pod.annotations.insert(BACKOFF_LIMIT.to_owned(), backoff_limit.to_string());
    if let Some(deadline) = deadline {
        let deadline = pod.active_deadline.map_or(deadline, |own| own.min(deadline));
        pod.active_deadline = Some(deadline);
        template.spec["activeDeadlineSeconds"] = json!(deadline.as_secs());
    }
    pods(&spec, "parallelism", &names, parallelism, &template)
}

struct Template {
    pod: Pod,
    namespace: Option<String>,
    spec: Value,
}

fn head<'a>(root: &Object<'a>) -> Option<(Metadata, Object<'a>)> {
    root.without_effect(&["status"]);
    let (metadata, spec) = (required(root, "metadata"), required(root, "spec"));
    root.finish();
    Some((metadata::read(&metadata?, false), spec?))
}

fn template(spec: &Object<'_>) -> Option<Template> {
    let template = required(spec, "template")?;
    let names = template.object("metadata").map(|object| metadata::read(&object, true)).unwrap_or_default();
    if names.annotations.contains_key(extra::EXTRA) {
        template.refuse("metadata.annotations", format_args!("{} is for a Pod", extra::EXTRA));
    }
    let pod_spec = required(&template, "spec")?;
    let mut pod = read_spec(&pod_spec);
    pod.labels = names.labels;
    pod.annotations = names.annotations;
    pod_check::check_joined(&pod_spec, &pod);
    let spec = template.value("spec").cloned().unwrap_or_default();
    template.finish();
    Some(Template { pod, namespace: names.namespace, spec })
}

fn pods(
    spec: &Object<'_>,
    field: &str,
    names: &Metadata,
    count: u32,
    template: &Template,
) -> Vec<PodDocument> {
    if count > MOST_PODS {
        spec.refuse(field, format_args!("{count} pods are more than {MOST_PODS}"));
        return Vec::new();
    }
    let one = |index| {
        let mut pod = template.pod.clone();
        let namespace = names.namespace.clone().or_else(|| template.namespace.clone());
        let own = Metadata {
            labels: pod.labels.clone(),
            annotations: pod.annotations.clone(),
            prefix: names.prefix.clone(),
            ..Metadata::default()
        };
        name(&mut pod, &own, format!("{}-{index}", names.name), namespace);
        PodDocument { document: document(&pod, Some(&template.spec)), pod }
    };
    (0..count).map(one).collect()
}

fn name(pod: &mut Pod, metadata: &Metadata, name: String, namespace: Option<String>) {
    pod.name = name;
    pod.name_prefix.clone_from(&metadata.prefix);
    pod.namespace = namespace.unwrap_or_else(|| "default".to_owned());
    pod.uid.clone_from(&metadata.uid);
    pod.labels.clone_from(&metadata.labels);
    pod.annotations.clone_from(&metadata.annotations);
}

/// The document of this pod alone, whatever kind of document it comes from.
fn document(pod: &Pod, spec: Option<&Value>) -> Value {
    let map = |map: &Map| json!(map);
    let mut metadata = json!({
        "name": pod.name,
        "namespace": pod.namespace,
        "labels": map(&pod.labels),
        "annotations": map(&pod.annotations),
    });
    if let Some(uid) = &pod.uid {
        metadata["uid"] = json!(uid);
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec.cloned().unwrap_or_default() })
}

fn required<'a>(object: &Object<'a>, name: &str) -> Option<Object<'a>> {
    if object.value(name).is_none() {
        object.refuse(name, "is required");
    }
    object.object(name)
}
