//! The Kubernetes Container Runtime Interface, version v1: every message, client and server.
//!
//! ```text
//!  proto/runtime/v1/runtime.proto --build.rs (protox, prost, tonic)--> runtime::v1::*
//!  proto/crisp/v1/*.proto         ----------------'                    crisp::v1::*
//! ```
//!
//! Cast: [`runtime::v1::runtime_service_server::RuntimeService`] and
//! [`runtime::v1::image_service_server::ImageService`] are what a runtime implements, the `_client` modules
//! are for those who call one, and [`RPC_PATHS`] and [`STREAM_PATHS`] name the RPCs, for code that
//! counts or routes them.
//! [`crisp::v1::pulls_server::Pulls`], [`crisp::v1::layers_server::Layers`] and
//! [`crisp::v1::files_server::Files`], [`crisp::v1::networks_server::Networks`],
//! [`crisp::v1::containers_server::Containers`], [`crisp::v1::images_server::Images`],
//! [`crisp::v1::diagnosis_server::Diagnosis`], [`crisp::v1::standalone_server::Standalone`] and
//! [`crisp::v1::log_server::Log`] are our own: pulls that say how far they are and can be stopped, a check of
//! unpacked layers, files in and out of containers, networks that are made by name, what people do to
//! containers, images as files, what happened and what is under way, pods that the server supervises by itself,
//! and the level of its log.
//!
//! Messages that carry credentials do not print them:
//!
//! ```
//! use crisp_proto::runtime::v1::AuthConfig;
//!
//! let auth = AuthConfig { username: "ann".into(), password: "hunter2".into(), ..Default::default() };
//! assert!(!format!("{auth:?}").contains("hunter2"));
//! ```

mod redact;

/// Packages named as in protobuf.
pub mod runtime {
    /// The contract's own package, `runtime.v1`.
    #[allow(clippy::all, clippy::unwrap_used, reason = "generated")]
    #[allow(missing_docs, unused_qualifications, reason = "generated")]
    #[rustfmt::skip]
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
}

/// The services of Crisp beside the CRI.
pub mod crisp {
    /// The package `crisp.v1`.
    #[allow(clippy::all, clippy::unwrap_used, reason = "generated")]
    #[allow(missing_docs, unused_qualifications, reason = "generated")]
    #[rustfmt::skip]
    pub mod v1 {
        tonic::include_proto!("crisp.v1");
    }
}

/// The HTTP path of every RPC of all services, for example `/runtime.v1.RuntimeService/Version`.
pub const RPC_PATHS: &[&str] = include!(concat!(env!("OUT_DIR"), "/rpc_paths.rs"));

/// Those whose reply is a stream.
pub const STREAM_PATHS: &[&str] = include!(concat!(env!("OUT_DIR"), "/stream_paths.rs"));

/// The `FileDescriptorSet` of all packages, for those who handle messages by their field names.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    use super::{RPC_PATHS, STREAM_PATHS};

    #[test]
    fn all_rpcs_of_the_contract_are_here() {
        assert_eq!(RPC_PATHS.iter().filter(|path| path.starts_with("/runtime.v1.")).count(), 43);
        assert!(RPC_PATHS.contains(&"/crisp.v1.Pulls/Pull"));
        assert!(RPC_PATHS.contains(&"/crisp.v1.Layers/Check"));
        assert!(RPC_PATHS.contains(&"/crisp.v1.Files/CopyIn"));
        assert!(RPC_PATHS.contains(&"/crisp.v1.Containers/Pause"));
        assert!(RPC_PATHS.contains(&"/runtime.v1.RuntimeService/RunPodSandbox"));
        assert!(RPC_PATHS.contains(&"/runtime.v1.ImageService/StreamImages"));
        assert!(STREAM_PATHS.contains(&"/runtime.v1.RuntimeService/GetContainerEvents"));
        assert!(!STREAM_PATHS.contains(&"/runtime.v1.RuntimeService/Version"));
    }
}
