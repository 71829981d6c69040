//! Performs the actions of probes and lifecycle hooks as kubelet does: commands run in the container,
//! requests are sent from the server's network namespace to the pod's address.

mod grpc;
mod http;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crisp_proto::runtime::v1::ExecSyncRequest;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tokio::net::TcpStream;
use tonic::Request;

use super::context::Context;
use super::manifest::{Action, Container, PortRef};

/// Bytes of a command's output or a response that are shown.
const MOST_OUTPUT: usize = 1024;
/// Time limit for a hook, which has none of its own.
const LONGEST_HOOK: Duration = Duration::from_secs(24 * 3600);

/// Whether a response with an error code is a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Probe,
    Hook,
}

/// Performs the action on the container with that id. The error is the reason in one line.
///
/// # Errors
/// A text for people.
pub async fn act(
    context: &Context,
    container: &Container,
    id: &str,
    action: &Action,
    purpose: Purpose,
    limit: Option<Duration>,
) -> Result<(), String> {
    let work = async {
        match action {
            // A hook's command may leave processes: an ExecSync with a limit kills them, so a hook passes none.
            Action::Exec(command) => {
                exec(context, id, command, limit.filter(|_| purpose == Purpose::Probe)).await
            }
            Action::Http(get) => {
                let host = host_of(context, get.host.as_ref())?;
                http::get(&host, port(container, &get.port)?, get, purpose).await
            }
            Action::Tcp { host, port: wanted } => {
                let host = host_of(context, host.as_ref())?;
                let port = port(container, wanted)?;
                let connected = TcpStream::connect((host.as_str(), port)).await;
                connected.map(drop).map_err(|error| format!("connecting to {host}:{port}: {error}"))
            }
            Action::Grpc { port, service } => grpc::check(address(context)?, *port, service).await,
            Action::Sleep(time) => {
                tokio::time::sleep(*time).await;
                Ok(())
            }
        }
    };
    // The command's own time limit also ends the command, as does the end of waiting for it.
    let has_own_limit = matches!(action, Action::Exec(_)) && purpose == Purpose::Probe;
    let margin = if has_own_limit { Duration::from_secs(5) } else { Duration::ZERO };
    let limit = limit.map_or(LONGEST_HOOK, |limit| limit + margin);
    let late = |_| Err(format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, work).await.unwrap_or_else(late)
}

async fn exec(
    context: &Context,
    id: &str,
    command: &[String],
    limit: Option<Duration>,
) -> Result<(), String> {
    let request = ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: command.to_vec(),
        timeout: limit.map_or(0, |limit| i64::try_from(limit.as_secs()).unwrap_or(0)),
    };
    let reply = context.server.runtime.exec_sync(Request::new(request)).await;
    let reply = reply.map_err(|status| status.message().to_owned())?.into_inner();
    if reply.exit_code == 0 {
        return Ok(());
    }
    let output = [reply.stdout, reply.stderr].concat();
    let output = String::from_utf8_lossy(&output[..output.len().min(MOST_OUTPUT)]).trim().replace('\n', "; ");
    let name = command.first().map_or("", String::as_str);
    Err(format!(
        "{name} ends with code {}{}{output}",
        reply.exit_code,
        if output.is_empty() { "" } else { ": " }
    ))
}

/// The host in the action, or the pod's address.
fn host_of(context: &Context, named: Option<&String>) -> Result<String, String> {
    named.map_or_else(|| address(context).map(|address| address.to_string()), |host| Ok(host.clone()))
}

/// The pod's address. One without a network has none: the server's own localhost is not meant.
fn address(context: &Context) -> Result<IpAddr, String> {
    if context.pod.host_network {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    context.fields.own_address().ok_or_else(|| "the pod has no address".to_owned())
}

fn port(container: &Container, wanted: &PortRef) -> Result<u16, String> {
    match wanted {
        PortRef::Number(port) => Ok(*port),
        PortRef::Name(name) => {
            let named = container.ports.iter().find(|port| port.name == *name);
            named.map(|port| port.container).ok_or_else(|| format!("the container has no port called {name}"))
        }
    }
}
