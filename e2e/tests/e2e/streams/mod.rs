//! Commands with streams, and the listener that serves them.

mod attach;
mod broken;
mod deaths;
mod ends;
mod grace;
mod held;
mod hostile;
mod listener;
mod protocols;
mod settings;

use std::time::{Duration, Instant};

use crisp_e2e::{Lab, Result, Setup, needs, websocket};
use futures_util::{SinkExt as _, StreamExt as _};
use k8s_cri::v1::ExecRequest;
use tokio_tungstenite::tungstenite::Message;

/// A server whose streams have a certificate that names no address: its own command line gets the certificate
/// from the server and needs no more.
#[tokio::test(flavor = "multi_thread")]
async fn exec_and_attach_work_over_tls() -> Result<()> {
    needs!("docker-registry", "busybox", "openssl");
    let keys = tempfile::tempdir()?;
    let (cert, key) = settings::certificate(keys.path(), "streams", &[])?;
    let args = ["--stream-cert", &cert, "--stream-key", &key].map(str::to_owned).to_vec();
    let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
    let (sandbox, pod) = lab.pod("tls").await?;
    let id = lab
        .client
        .launch(&pod, &lab.shell("for n in 1 2 3 4 5; do echo tick; sleep 1; done"), &sandbox)
        .await?;
    let exec = lab.machine.crisp(&["exec", "-i", &id, "sh", "-c", "cat; echo over; exit 6"])?;
    let text = format!("{}{}", String::from_utf8_lossy(&exec.stdout), String::from_utf8_lossy(&exec.stderr));
    assert_eq!((text.as_str(), exec.status.code()), ("over\n", Some(6)));
    let attach = lab.machine.crisp(&["attach", &id])?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&attach.stdout), String::from_utf8_lossy(&attach.stderr));
    assert!(text.contains("tick") && attach.status.success(), "{text}");
    lab.close().await
}

/// The Python client copies files like this: it has no other way to end its input.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_websocket_client_sent_before_it_closed_reaches_the_command() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("close").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 100"), &sandbox).await?;
    let cmd = ["sh", "-c", "sleep 1; cat > /tmp/partial; mv /tmp/partial /tmp/whole"];
    let request = ExecRequest {
        container_id: id.clone(),
        cmd: cmd.map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let url = lab.client.runtime.exec(request).await?.into_inner().url;
    let mut socket = websocket::connect(&url, "v4.channel.k8s.io").await?;
    // The server's greeting is read first: a socket that is closed with unread bytes sends nothing more.
    socket.next().await.ok_or("no greeting")??;
    // In one message, as that client does.
    socket.send(Message::binary([&b"\0"[..], &vec![b'x'; 2 << 20]].concat())).await?;
    socket.send(Message::Close(None)).await?;
    drop(socket);
    let begun = Instant::now();
    loop {
        let seen = lab.client.exec(&id, &["stat", "-c", "%s", "/tmp/whole"]).await?;
        if seen.exit_code == 0 {
            assert_eq!(String::from_utf8(seen.stdout.to_vec())?, "2097152\n");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "the command did not get to its end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    lab.close().await
}
