//! The Kubernetes Container Runtime Interface, version v1: every message, client and server.
//!
//! ```text
//!  proto/runtime/v1/runtime.proto --build.rs (protox, prost, tonic)--> runtime::v1::*
//! ```
//!
//! Cast: [`runtime::v1::runtime_service_server::RuntimeService`] and
//! [`runtime::v1::image_service_server::ImageService`] are what a runtime implements, the `_client` modules
//! are for those who call one, and [`RPC_PATHS`] names all 43 RPCs for whoever counts or routes them.
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

/// The HTTP path of every RPC of both services, for example `/runtime.v1.RuntimeService/Version`.
pub const RPC_PATHS: &[&str] = include!(concat!(env!("OUT_DIR"), "/rpc_paths.rs"));

#[cfg(test)]
mod tests {
    use super::RPC_PATHS;

    #[test]
    fn all_rpcs_of_the_contract_are_here() {
        assert_eq!(RPC_PATHS.len(), 43);
        assert!(RPC_PATHS.contains(&"/runtime.v1.RuntimeService/RunPodSandbox"));
        assert!(RPC_PATHS.contains(&"/runtime.v1.ImageService/StreamImages"));
    }
}
