//! Fuzz targets for everything that Crisp parses and did not write itself: registries, images, archives,
//! plugins, manifests, profiles, and the other end of a monitor's socket.
//!
//! A target is a name and a function that must return for any bytes. `e2e/fuzz.sh` runs libFuzzer on each
//! of them, beginning with the inputs in `corpus/NAME`; the ordinary tests replay those inputs. An input
//! that broke something goes there for good.

/// The reader of `crisp run`'s manifests; the binary has no library to take it from.
#[allow(dead_code, unreachable_pub, unused_imports, reason = "only its parse function is used here")]
#[path = "../../../cri-server/src/run/manifest/mod.rs"]
mod manifest;

/// A parser under test.
pub type Target = fn(&[u8]);

/// All targets, by the name of their corpus.
pub const TARGETS: [(&str, Target); 16] = [
    ("challenge", text_target::challenge),
    ("cni_result", crisp_sandbox::fuzz::cni_result),
    ("config", crisp_image_service::fuzz::image_config),
    ("dns", crisp_sandbox::fuzz::dns),
    ("header_blocks", crisp_streaming::fuzz::header_blocks),
    ("hosts_file", text_target::hosts_file),
    ("index", crisp_image_service::fuzz::manifest),
    ("networks", text_target::networks),
    ("pax", crisp_image_service::fuzz::pax),
    ("pod_manifest", text_target::pod_manifest),
    ("reference", text_target::reference),
    ("seccomp", crisp_executor::fuzz::seccomp),
    ("spdy", crisp_streaming::fuzz::spdy),
    ("tar", crisp_image_service::fuzz::tar),
    ("websocket", crisp_streaming::fuzz::websocket),
    ("wire", crisp_monitor::wire::fuzz_packet),
];

/// Targets that take text: bytes that are none are refused before.
mod text_target {
    fn with_text(bytes: &[u8], target: impl Fn(&str)) {
        if let Ok(text) = std::str::from_utf8(bytes) {
            target(text);
        }
    }

    pub(super) fn challenge(bytes: &[u8]) {
        with_text(bytes, crisp_image_service::fuzz::challenge);
    }

    pub(super) fn hosts_file(bytes: &[u8]) {
        with_text(bytes, crisp_image_service::fuzz::hosts_file);
    }

    pub(super) fn networks(bytes: &[u8]) {
        with_text(bytes, crisp_sandbox::fuzz::networks);
    }

    /// A parsed value must be written in a form that parses to the same value.
    pub(super) fn reference(bytes: &[u8]) {
        with_text(bytes, |text| {
            if let Ok(reference) = crisp_image_service::Reference::parse(text) {
                let written = reference.to_string();
                assert_eq!(
                    crisp_image_service::Reference::parse(&written).ok(),
                    Some(reference),
                    "{written}"
                );
            }
        });
    }

    pub(super) fn pod_manifest(bytes: &[u8]) {
        with_text(bytes, |text| drop(super::manifest::parse("fuzz", text)));
    }
}

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
