//! The object of an operation, as attributes: those of OpenTelemetry's conventions where there are some.

use super::span::Span;
use crate::passwords::without_passwords;

/// Names the object of an operation in its span.
pub(crate) fn describe(span: &mut Span, subject: &str) {
    for (key, value) in attributes(subject) {
        span.set(key, || value);
    }
}

/// `container 0123… (lab/web/app)` is an id and three names.
fn attributes(subject: &str) -> Vec<(&'static str, String)> {
    let Some((kind, rest)) = subject.split_once(' ') else { return Vec::new() };
    let (id, names) = rest.split_once(' ').unwrap_or((rest, ""));
    let id = match kind {
        "pod" => Some(("sandbox.id", id.to_owned())),
        "container" => Some(("container.id", id.to_owned())),
        "image" => Some(("image.ref", without_passwords(id))),
        _ => None,
    };
    let names = names.trim_start_matches('(').trim_end_matches(')').split('/');
    let keys = ["k8s.namespace.name", "k8s.pod.name", "k8s.container.name"];
    let names = keys.into_iter().zip(names).filter(|(_, name)| !name.is_empty());
    id.into_iter().chain(names.map(|(key, name)| (key, name.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_an_id_and_names() {
        let of = |subject: &str| {
            let attributes = attributes(subject).into_iter().map(|(key, value)| format!("{key}={value}"));
            attributes.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("pod 01 (lab/web)"), "sandbox.id=01 k8s.namespace.name=lab k8s.pod.name=web");
        assert_eq!(
            of("container 01 (lab/web/app)"),
            "container.id=01 k8s.namespace.name=lab k8s.pod.name=web k8s.container.name=app"
        );
        assert_eq!(of("container 01"), "container.id=01");
        assert_eq!(of("image r.test/a@sha256:00"), "image.ref=r.test/a@sha256:00");
        assert_eq!(of("image ann:hunter2@r.test/a"), "image.ref=***@r.test/a");
        assert_eq!((of("layers"), of("image ")), (String::new(), "image.ref=".to_owned()));
    }
}
