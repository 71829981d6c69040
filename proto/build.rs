//! Compiles the contract with a protobuf compiler written in Rust: a build needs no protoc.

use std::fmt::Write as _;
use std::path::PathBuf;

use protox::prost_reflect::prost::Message as _;

/// Messages that hold or contain a secret: their `Debug` is written by hand in `src/redact.rs`.
const SECRET: [&str; 5] = [
    ".runtime.v1.AuthConfig",
    ".runtime.v1.PullImageRequest",
    ".crisp.v1.RunManifestsRequest",
    ".crisp.v1.CreateStandaloneRequest",
    ".crisp.v1.ExecContainerRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let contracts = [
        "runtime/v1/runtime.proto",
        "crisp/v1/pulls.proto",
        "crisp/v1/layers.proto",
        "crisp/v1/files.proto",
        "crisp/v1/networks.proto",
        "crisp/v1/containers.proto",
        "crisp/v1/standalone.proto",
        "crisp/v1/images.proto",
        "crisp/v1/diagnosis.proto",
        "crisp/v1/log.proto",
    ];
    let files = protox::compile(contracts, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    std::fs::write(out.join("rpc_paths.rs"), rpc_paths(&files, false)?)?;
    std::fs::write(out.join("stream_paths.rs"), rpc_paths(&files, true)?)?;
    std::fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;

    let mut config = prost_build::Config::new();
    // Ordered maps: two equal messages are equal bytes, in logs, records and tests.
    config.btree_map(["."]).skip_debug(SECRET).enable_type_names();
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .compile_fds_with_config(files, config)?;
    Ok(())
}

/// The HTTP path of every RPC, or of those with a stream of replies, as gRPC forms them.
fn rpc_paths(
    files: &protox::prost_reflect::prost_types::FileDescriptorSet,
    streams: bool,
) -> Result<String, std::fmt::Error> {
    let mut list = String::from("&[\n");
    for file in &files.file {
        for service in &file.service {
            for method in service.method.iter().filter(|method| !streams || method.server_streaming()) {
                writeln!(list, "    \"/{}.{}/{}\",", file.package(), service.name(), method.name())?;
            }
        }
    }
    list.push(']');
    Ok(list)
}
