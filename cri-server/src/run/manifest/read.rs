//! Reads files, folders and standard input into pods.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::refused_fields::Problems;
use super::strict_object::Object;
use super::workload::PodDocument;
use super::{ManifestError, Objects, references, workload};

/// All pods and objects of a set of documents.
#[derive(Clone, Default)]
pub struct Manifests {
    pub pods: Vec<PodDocument>,
    pub objects: Objects,
    /// Documents of objects that pods use.
    pub others: Vec<Value>,
    /// Fields that are accepted but have no effect here.
    pub without_effect: Vec<String>,
}

/// Leaves out the documents, because they include Secrets.
impl fmt::Debug for Manifests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.pods.iter().map(|document| &document.pod.name).collect::<Vec<_>>();
        f.debug_struct("Manifests")
            .field("pods", &names)
            .field("objects", &self.objects)
            .finish_non_exhaustive()
    }
}

impl Manifests {
    /// Pods and the objects that they use, one document each.
    pub fn all_documents(&self) -> impl Iterator<Item = &Value> {
        self.pods.iter().map(|pod| &pod.document).chain(&self.others)
    }
}

/// Reads a file, all manifests of a folder sorted by name, or standard input (`-`).
///
/// # Errors
/// [`ManifestError`].
pub fn read(path: &Path) -> Result<Manifests, ManifestError> {
    if !path.is_dir() {
        return super::parse(&path.display().to_string(), &text(path)?);
    }
    let mut documents = Vec::new();
    for file in files(path)? {
        documents.extend(split(&file.display().to_string(), &text(&file)?)?);
    }
    from_documents(&path.display().to_string(), documents)
}

fn text(path: &Path) -> Result<String, ManifestError> {
    let name = path.display().to_string();
    let text =
        if name == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    text.map_err(|source| ManifestError::Read { path: name, source })
}

/// The manifests in a folder.
fn files(path: &Path) -> Result<Vec<PathBuf>, ManifestError> {
    let failed = |source| ManifestError::Read { path: path.display().to_string(), source };
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let is_manifest = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        path.is_file() && ending.is_some_and(|ending| ["yaml", "yml", "json"].contains(&ending))
    };
    let entries = entries.map_err(failed)?.into_iter().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(is_manifest).collect();
    files.sort();
    if files.is_empty() {
        return Err(failed(std::io::Error::other("no file in it ends in .yaml, .yml or .json")));
    }
    Ok(files)
}

/// The documents of a text without empty ones. A List is replaced by its items.
///
/// # Errors
/// [`ManifestError::Yaml`].
pub fn split(name: &str, text: &str) -> Result<Vec<Value>, ManifestError> {
    // As in YAML 1.1, which Kubernetes uses: permissions are often written as octal numbers. Errors contain
    // no piece of the text, which may be that of a Secret.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|e| ManifestError::Yaml { path: name.to_owned(), message: e.to_string() })?;
    let items = |document: Value| match document.get("kind").and_then(Value::as_str) {
        Some("List") => document.get("items").and_then(Value::as_array).cloned().unwrap_or_default(),
        _ => vec![document],
    };
    Ok(documents.into_iter().flat_map(items).collect())
}

/// Reads manifests that are already parsed; `name` is used in errors.
///
/// # Errors
/// [`ManifestError::Refused`].
pub fn from_documents(name: &str, documents: Vec<Value>) -> Result<Manifests, ManifestError> {
    let mut found = Manifests::default();
    let mut refused = Vec::new();
    let (several, is_empty) = (documents.len() > 1, documents.is_empty());
    for document in documents {
        let title = title(&document, several);
        let problems = Problems::default();
        if let Some(root) = Object::root(&document, &problems) {
            read_document(&root, &document, &mut found);
        }
        let titled = |line: String| format!("{title}{line}");
        refused.extend(problems.take().into_iter().map(titled));
        found.without_effect.extend(problems.take_without_effect().into_iter().map(titled));
    }
    for PodDocument { pod, .. } in &found.pods {
        let title = if several { format!("Pod {}: ", pod.name) } else { String::new() };
        let missing = references::missing(pod, &found.objects);
        refused.extend(missing.into_iter().map(|line| format!("{title}{line}")));
    }
    refused.extend(twice(&found.pods));
    if is_empty {
        refused.push("there is nothing in it".to_owned());
    }
    if refused.is_empty() {
        Ok(found)
    } else {
        Err(ManifestError::Refused { path: name.to_owned(), problems: refused })
    }
}

fn read_document(root: &Object<'_>, document: &Value, found: &mut Manifests) {
    let kind = root.required("kind").unwrap_or_default();
    let version = root.required("apiVersion").unwrap_or_default();
    let wanted = match kind.as_str() {
        "Deployment" => "apps/v1",
        "Job" => "batch/v1",
        _ => "v1",
    };
    match kind.as_str() {
        "Pod" => found.pods.extend(workload::read_pod(root)),
        "Deployment" => found.pods.extend(workload::read_deployment(root)),
        "Job" => found.pods.extend(workload::read_job(root)),
        _ if found.objects.read(&kind, root) => found.others.push(document.clone()),
        "" => return,
        other => {
            let known = "Pod, Deployment, Job, ConfigMap, Secret and PersistentVolumeClaim";
            return root.refuse("kind", format_args!("{other:?}: crisp run knows only {known}"));
        }
    }
    if !version.is_empty() && version != wanted {
        root.refuse("apiVersion", format_args!("{version:?}: crisp run knows only {wanted}"));
    }
}

/// A name for messages, when there are several documents.
fn title(document: &Value, several: bool) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("?").to_owned();
    let name = document.get("metadata").and_then(|metadata| metadata.get("name"));
    if several { format!("{} {}: ", text(document.get("kind")), text(name)) } else { String::new() }
}

fn twice(pods: &[PodDocument]) -> Vec<String> {
    let key = |document: &PodDocument| (document.pod.namespace.clone(), document.pod.name.clone());
    let mut seen = std::collections::BTreeSet::new();
    let twice = pods.iter().map(key).filter(|key| !seen.insert(key.clone()));
    let names = twice.map(|(_, name)| format!("there are two pods called {name}"));
    let mut uids = std::collections::BTreeSet::new();
    let uid = |document: &PodDocument| document.pod.uid.clone();
    let uids = pods.iter().filter_map(uid).filter(|uid| !uids.insert(uid.clone()));
    names.chain(uids.map(|uid| format!("metadata.uid: there are two pods with the uid {uid}"))).collect()
}
