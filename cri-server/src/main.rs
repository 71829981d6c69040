//! `crisp`: the server and its command line.
//!
//! ```text
//!  crisp serve ---> server/   Metrics, ImageService, Pods, RuntimeService behind one gRPC socket
//!  crisp run   ---> run/      the same server, inside this process, for manifests or an image
//!  crisp ps, logs, exec, ...  cli/, one file per command, speak gRPC to --listen
//!  crisp oci   ---> oci/     an OCI runtime without a server, for podman, containerd and bundles
//!  crisp config ------------> config/, the settings and the source of each
//! ```
//!
//! Docker's options and their handling: `run::image`; fields of PodSpec: `run::manifest`.
//!
//! Only this crate uses `anyhow`: below it every error has a type.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod args;
mod cli;
mod config;
mod log;
mod logging;
mod oci;
mod print;
mod progress;
mod rpc_error;
mod run;
mod server;
mod table;
mod time;

use std::io::Write as _;
use std::process::ExitCode;

use args::Args;

fn main() -> ExitCode {
    let args = match Args::understand(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let own_failure = args.own_failure();
    match args.run() {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; that must not change the exit code.
            let _ = writeln!(std::io::stderr(), "crisp: {error:#}");
            ExitCode::from(own_failure)
        }
    }
}

/// Whether the reader of the output has closed it, as in `crisp ps | head -1`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(kind))
}
