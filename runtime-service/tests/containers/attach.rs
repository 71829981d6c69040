//! Attach.

use std::time::{Duration, Instant};

use crisp_streaming::client::ClientError;

use crate::lab::{lab, shell};
use crate::streams::{ALL, OUTPUT, read_all, read_until};

#[tokio::test]
async fn attached_clients_see_the_output_beside_the_log_and_send_input() {
    let lab = lab!();
    let pod = lab.pod("attach").await;
    let mut config = shell("app", "while read -r line; do echo \"got $line\"; echo err >&2; done; echo over");
    (config.stdin, config.stdin_once) = (true, true);
    let id = lab.run(&pod, config).await;
    let mut first = lab.attach(&id, ALL).await;
    let mut second = lab.attach(&id, OUTPUT).await;
    let mut stdin = first.stdin.take().unwrap();
    // The second client is attached once it sees something.
    let begun = Instant::now();
    loop {
        stdin.write(b"one\n").await.unwrap();
        let read = second.stdout.as_mut().unwrap().read();
        if tokio::time::timeout(Duration::from_millis(300), read).await.is_ok() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    read_until(&mut first.stdout, "got one").await;
    read_until(&mut first.stderr, "err").await;
    // stdin_once: the container reads the end of its input with that of its client.
    stdin.close().await.unwrap();
    assert!(read_all(first.stdout.take()).await.ends_with("over\n"));
    assert_eq!(first.wait().await.unwrap(), 0);
    assert!(read_all(second.stdout.take()).await.ends_with("over\n"));
    lab.exited(&id).await;
    assert!(lab.log("app").contains("got one") && lab.log("app").contains("over"));
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_slow_client_is_cut_off_and_the_container_and_others_go_on() {
    let lab = lab!();
    let pod = lab.pod("attach-slow").await;
    let line = "read -r go; head -c 30000000 /dev/zero; echo finished";
    let mut config = shell("app", line);
    config.stdin = true;
    let id = lab.run(&pod, config).await;
    let mut slow = lab.attach(&id, OUTPUT).await;
    let mut starter = lab.attach(&id, ALL).await;
    // Both are attached when the server has answered a third request to the monitor.
    lab.sh(&id, "true").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    starter.stdin.as_mut().unwrap().write(b"go\n").await.unwrap();
    let status = lab.exited(&id).await;
    assert_eq!(status.exit_code, 0, "the container was not held up");
    assert!(lab.log("app").ends_with("finished\n"));
    let mut read = 0;
    let mut stdout = slow.stdout.take().unwrap();
    while let Ok(Some(bytes)) = stdout.read().await {
        read += bytes.len();
    }
    assert!(read < 30_000_000);
    let error = slow.wait().await.unwrap_err();
    assert!(matches!(&error, ClientError::Server(text) if text.contains("too slowly")), "{error}");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_container_that_closes_its_output_keeps_its_clients_and_they_are_not_slow() {
    let lab = lab!();
    let pod = lab.pod("attach-closed").await;
    let line = "read -r go; exec >/dev/null 2>&1; sleep 4; read -r end; exit 0";
    let mut config = shell("app", line);
    config.stdin = true;
    let id = lab.run(&pod, config).await;
    let mut client = lab.attach(&id, ALL).await;
    let mut stdin = client.stdin.take().unwrap();
    stdin.write(b"go\n").await.unwrap();
    assert_eq!(read_all(client.stdout.take()).await, "");
    stdin.write(b"end\n").await.unwrap();
    assert_eq!(client.wait().await.unwrap(), 0);
    lab.remove_pod(&pod).await;
}

/// A disk that is soon full.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(folder: std::path::PathBuf) -> Self {
        use rustix::mount::{MountFlags, mount};
        std::fs::create_dir_all(&folder).unwrap();
        mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_client_of_a_container_whose_log_is_blocked_ends_with_it() {
    let lab = lab!();
    let _disk = SmallDisk::mount(lab.logs());
    let pod = lab.pod("attach-blocked").await;
    let mut config = shell("app", "read -r go; head -c 300000 /dev/zero");
    config.stdin = true;
    let id = lab.run(&pod, config).await;
    let mut client = lab.attach(&id, ALL).await;
    client.stdin.as_mut().unwrap().write(b"go\n").await.unwrap();
    assert!(client.stdout.as_mut().unwrap().read().await.unwrap().is_some());
    lab.stop(&id, 0).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), client.wait()).await.expect("an end");
    assert_eq!(end.unwrap(), 0);
    lab.remove_pod(&pod).await;
}
