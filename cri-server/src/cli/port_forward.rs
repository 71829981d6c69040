//! `crisp port-forward`: forwards local ports to ports in a pod.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use crisp_proto::runtime::v1::PortForwardRequest;
use crisp_streaming::client::{ForwardedPort, PortForwardClient};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::Client;
use super::client::refused;
use super::names::Names;
use crate::print;

/// Pause after a failed accept.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// Forward local ports to ports in a pod until interrupted
#[derive(Debug, clap::Args)]
pub struct PortForward {
    /// Local address to listen on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    address: std::net::IpAddr,
    /// Pod, as an id, the beginning of one, or NAME
    pod: String,
    /// PORT, or LOCAL:PORT; local port 0 takes any
    #[arg(required = true, value_name = "[LOCAL:]PORT", value_parser = parse)]
    ports: Vec<(u16, u16)>,
}

fn parse(text: &str) -> Result<(u16, u16), String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not a port"));
    let (local, remote) = (port(local)?, port(remote)?);
    if remote == 0 { Err("the pod has no port 0".to_owned()) } else { Ok((local, remote)) }
}

impl PortForward {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let pod_sandbox_id = Names::load(&mut client).await?.pod(&self.pod)?.id.clone();
        let request = PortForwardRequest { pod_sandbox_id, port: Vec::new() };
        let url = client.runtime.port_forward(request).await.map_err(refused)?.into_inner().url;
        let session = PortForwardClient::connect(client.endpoint(&url).await?)
            .await
            .context("no session with the pod")?;
        let session = Arc::new(session);
        let mut accepting = tokio::task::JoinSet::new();
        for (local, remote) in self.ports {
            let listener = TcpListener::bind((self.address, local)).await;
            let listener = listener.with_context(|| format!("cannot listen on {}:{local}", self.address))?;
            print::line(format_args!("{} -> {remote}", listener.local_addr()?))?;
            accepting.spawn(accept(listener, remote, session.clone()));
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
            Some(_) = accepting.join_next() => anyhow::bail!("the session with the pod is over"),
        }
    }
}

/// Accepts connections until the session is over.
async fn accept(listener: TcpListener, remote: u16, session: Arc<PortForwardClient>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = session.gone() => return,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                print::warning(format_args!("port {remote}: cannot accept a connection: {error}"));
                // Descriptors become free when other connections end.
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match session.open(remote) {
            Ok(forwarded) => drop(connections.spawn(forward(socket, forwarded, remote))),
            // Only this connection is too much; if the session has ended, the next accept finds that.
            Err(error) => print::warning(format_args!("port {remote}: a connection is closed: {error}")),
        }
    }
}

/// One side has broken the connection: the other side must see that.
struct Broken;

async fn forward(socket: TcpStream, forwarded: ForwardedPort, remote: u16) {
    let ForwardedPort { mut reader, mut writer, mut error } = forwarded;
    let (mut from_local, mut to_local) = socket.into_split();
    let send = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from_local.read(&mut buffer).await.map_err(|_| Broken)? {
                0 => return writer.close().await.map_err(|_| Broken),
                bytes => writer.write(&buffer[..bytes]).await.map_err(|_| Broken)?,
            }
        }
    };
    let receive = async {
        while let Some(bytes) = reader.read().await.map_err(|_| Broken)? {
            to_local.write_all(&bytes).await.map_err(|_| Broken)?;
        }
        let _ = to_local.shutdown().await;
        Ok(())
    };
    let failure = async {
        if let Ok(Some(text)) = error.read().await {
            print::warning(format_args!("port {remote}: {}", String::from_utf8_lossy(&text)));
        }
    };
    let _ = tokio::join!(async { tokio::try_join!(send, receive) }, failure);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_alone_and_in_pairs() {
        assert_eq!(parse("80"), Ok((80, 80)));
        assert_eq!(parse("8080:80"), Ok((8080, 80)));
        assert_eq!(parse("0:80"), Ok((0, 80)));
        for text in ["", "x", "80:0", "70000", "1:2:3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
