//! Sessions over TLS. The certificates name no address and have expired long ago: neither matters to a client
//! that knows the server's certificate.

use std::path::PathBuf;

use crisp_streaming::client::{ClientError, Endpoint, ProcessClient};
use crisp_streaming::{Outcome, ProcessSession, StreamConfig, StreamServer};

use super::process::{ALL, read_all};

fn pem(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../metrics/tests/pem", name].iter().collect()
}

async fn server() -> StreamServer {
    let tls = Some((pem("one.crt"), pem("one.key")));
    StreamServer::open(&StreamConfig { tls, ..StreamConfig::default() }).await.unwrap()
}

async fn echo(mut session: ProcessSession) {
    let mut input = session.stdin.take().unwrap();
    while let Ok(Some(bytes)) = input.read().await {
        session.stdout.as_mut().unwrap().write(&bytes).await.unwrap();
    }
    session.finish(Outcome::Exited(4)).await;
}

#[tokio::test]
async fn a_client_that_knows_the_certificate_is_served() {
    let server = server().await;
    let url = server.process("pod", "exec", ALL, echo).unwrap();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let endpoint = Endpoint::from(&url).with_certificate(&server.certificate().unwrap()).unwrap();
    let mut client = ProcessClient::connect(endpoint, ALL).await.unwrap();
    let (mut stdin, stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let send = async {
        stdin.write(&[7; 1 << 20]).await.unwrap();
        stdin.close().await.unwrap();
    };
    assert_eq!(tokio::join!(send, read_all(stdout)).1, [7; 1 << 20]);
    assert_eq!(client.wait().await.unwrap(), 4);
    client.close().await;
}

#[tokio::test]
async fn a_server_with_another_certificate_or_an_unknown_one_is_not_spoken_to() {
    let server = server().await;
    let url = server.process("pod", "exec", ALL, echo).unwrap();
    let other = std::fs::read_to_string(pem("two.crt")).unwrap();
    for endpoint in [Endpoint::from(&url), Endpoint::from(&url).with_certificate(&other).unwrap()] {
        let error = ProcessClient::connect(endpoint, ALL).await.err().expect("refused");
        assert!(
            matches!(&error, ClientError::Connect { reason, .. } if reason.contains("certificate")),
            "{error}"
        );
    }
    assert!(matches!(Endpoint::from(&url).with_certificate("none"), Err(ClientError::Certificate(_))));
}
