//! The service Files.

use crisp_proto::crisp::v1::CopyOutRequest;
use crisp_proto::crisp::v1::files_server::Files as _;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};

use crate::lab::{Lab, lab, shell};

impl Lab {
    /// The names and contents of an archive.
    async fn copy_out(&self, id: &str, path: &str) -> Result<Vec<(String, String)>, Status> {
        let request = CopyOutRequest { container_id: id.into(), path: path.into(), ..Default::default() };
        let mut pieces = self.service.copy_out(Request::new(request)).await?.into_inner();
        let mut archive = Vec::new();
        while let Some(piece) = pieces.next().await {
            archive.extend_from_slice(&piece?.data);
        }
        let mut archive = tar::Archive::new(&archive[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            (name, std::io::read_to_string(&mut entry).unwrap())
        });
        Ok(entries.collect())
    }
}

#[tokio::test]
async fn files_come_out_of_a_container_that_runs_and_out_of_one_that_does_not() {
    let lab = lab!();
    let pod = lab.pod("files").await;
    let line = "mkdir /made; echo text > /made/file; ln -s /etc/passwd /made/link; echo in > /data/volume; sleep 1000";
    let id = lab.run(&pod, shell("app", line)).await;
    let begun = std::time::Instant::now();
    while lab.copy_out(&id, "/data/volume").await.is_err() {
        assert!(begun.elapsed().as_secs() < 20);
    }
    let made = async || {
        let mut made = lab.copy_out(&id, "/made").await.unwrap();
        made.sort();
        made
    };
    let expected = [("made", ""), ("made/file", "text\n"), ("made/link", "")];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let without_slashes = |made: Vec<(String, String)>| {
        made.into_iter().map(|(name, text)| (name.trim_end_matches('/').to_owned(), text)).collect::<Vec<_>>()
    };
    assert_eq!(without_slashes(made().await), expected);
    assert_eq!(lab.copy_out(&id, "/no/such").await.unwrap_err().code(), Code::NotFound);
    // Not those of the server.
    assert!(lab.copy_out(&id, "/proc/self/root/etc").await.is_err());
    lab.stop(&id, 0).await.unwrap();
    lab.exited(&id).await;
    assert_eq!(without_slashes(made().await), expected);
    let refused = lab.copy_out(&id, "/data/volume").await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("/data"), "{refused}");
    lab.remove(&id).await.unwrap();
    lab.remove_pod(&pod).await;
}
