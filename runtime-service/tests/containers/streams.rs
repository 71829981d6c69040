//! The shared parts of the tests of exec, attach and port-forward: from the RPC to the client's streams.

use std::time::{Duration, Instant};

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_streaming::client::{PortForwardClient, ProcessClient};
use crisp_streaming::{ProcessRequest, StreamReader};
use tonic::{Request, Status};

use crate::lab::Lab;

pub const ALL: ProcessRequest = ProcessRequest { stdin: true, stdout: true, stderr: true, tty: false };
pub const OUTPUT: ProcessRequest = ProcessRequest { stdin: false, ..ALL };
pub const TTY: ProcessRequest = ProcessRequest { stderr: false, tty: true, ..ALL };

impl Lab {
    pub async fn exec_url(
        &self,
        id: &str,
        words: &[&str],
        streams: ProcessRequest,
    ) -> Result<String, Status> {
        let ProcessRequest { stdin, stdout, stderr, tty } = streams;
        let cmd = words.iter().map(|word| (*word).to_owned()).collect();
        let request = proto::ExecRequest { container_id: id.into(), cmd, stdin, stdout, stderr, tty };
        Ok(self.service.exec(Request::new(request)).await?.into_inner().url)
    }

    pub async fn exec_stream(&self, id: &str, line: &str, streams: ProcessRequest) -> ProcessClient {
        let url = self.exec_url(id, &["sh", "-c", line], streams).await.unwrap();
        ProcessClient::connect(&url, streams).await.unwrap()
    }

    pub async fn attach(&self, id: &str, streams: ProcessRequest) -> ProcessClient {
        let ProcessRequest { stdin, stdout, stderr, tty } = streams;
        let request = proto::AttachRequest { container_id: id.into(), stdin, stdout, stderr, tty };
        let url = self.service.attach(Request::new(request)).await.unwrap().into_inner().url;
        ProcessClient::connect(&url, streams).await.unwrap()
    }

    pub async fn forward(&self, pod: &str) -> PortForwardClient {
        let request = proto::PortForwardRequest { pod_sandbox_id: pod.into(), port: vec![] };
        let url = self.service.port_forward(Request::new(request)).await.unwrap().into_inner().url;
        PortForwardClient::connect(&url).await.unwrap()
    }

    /// Whether a line of `ps` in the container has the text.
    pub async fn has_process(&self, id: &str, text: &str) -> bool {
        self.sh(id, "ps").await.lines().any(|line| line.contains(text) && !line.contains("sh -c ps"))
    }

    pub async fn until_no_process(&self, id: &str, text: &str) {
        let begun = Instant::now();
        while self.has_process(id, text).await {
            assert!(begun.elapsed() < Duration::from_secs(20), "{text} is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub async fn read_all(reader: Option<StreamReader>) -> String {
    let mut reader = reader.unwrap();
    let mut all = Vec::new();
    while let Some(bytes) = reader.read().await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    String::from_utf8(all).unwrap()
}

pub async fn read_until(reader: &mut Option<StreamReader>, text: &str) -> String {
    let mut all = String::new();
    let read = async {
        while !all.contains(text) {
            let bytes = reader.as_mut().unwrap().read().await.unwrap().expect("the end");
            all.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), read).await.is_ok(), "no {text:?} in {all:?}");
    all
}
