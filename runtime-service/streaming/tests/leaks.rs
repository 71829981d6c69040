//! Tests for leaks of sessions, in a separate program, because they count the resources of the whole process.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::time::{Duration, Instant};

use crisp_streaming::client::ProcessClient;
use crisp_streaming::{Outcome, ProcessRequest, ProcessSession, Size, StreamConfig, StreamServer};
use tokio::runtime::Handle;
use tokio::sync::Barrier;

const TTY: ProcessRequest = ProcessRequest { stdin: true, stdout: true, stderr: false, tty: true };
const WARM_UP: u16 = 200;
const ROUNDS: u16 = 10_000;
const AT_ONCE: usize = 200;
/// More kilobytes than these are memory that sessions left behind: a fifth of a kilobyte of each.
const LEEWAY: usize = 2048;
/// The most resident bytes for one session with its client: both are in this process.
const MOST: usize = 300 << 10;

#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    tasks: usize,
    /// Resident memory that belongs to no file.
    kilobytes: usize,
}

fn held() -> Held {
    let entries = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    Held {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        tasks: Handle::current().metrics().num_alive_tasks(),
        kilobytes: anonymous(),
    }
}

fn anonymous() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    // What the kernel has swapped out counts too.
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    of("RssAnon:") + of("VmSwap:")
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// The resources once they no longer change.
async fn stable() -> Held {
    let begun = Instant::now();
    let mut last = held();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = held();
        if now == last {
            return now;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{last:?}, and later {now:?}");
        last = now;
    }
}

/// Waits until the process holds no more than before.
async fn until_as_before(before: &Held) {
    let is_more = |held: Held| {
        held.descriptors > before.descriptors
            || held.threads > before.threads
            || held.tasks > before.tasks
            || held.kilobytes > before.kilobytes + LEEWAY
    };
    let begun = Instant::now();
    while is_more(held()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{before:?} before, {:?} after", held());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The runtime has one thread and this is the only test, so it counts only its own resources.
#[test]
fn sessions_leave_nothing_behind() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = StreamServer::open(&StreamConfig::default()).await.unwrap();
        vanish(&server, WARM_UP).await;
        let before = stable().await;
        vanish(&server, ROUNDS).await;
        until_as_before(&before).await;
        all_at_once(&server).await;
        // An allocator keeps more of what was in use at one time each time that this is done, up to a limit.
        until_as_before(&Held { kilobytes: usize::MAX - LEEWAY, ..before }).await;
    });
}

/// Opens sessions whose clients set the size of their terminal and vanish.
async fn vanish(server: &StreamServer, rounds: u16) {
    for round in 0..rounds {
        let (sender, mut sizes) = tokio::sync::mpsc::channel(1);
        let serve = move |mut session: ProcessSession| async move {
            while let Some(size) = session.resizes.as_mut().unwrap().next().await {
                let _ = sender.send(size).await;
            }
        };
        let url = server.process("pod", "exec", TTY, serve).unwrap();
        let mut client = ProcessClient::connect(&url, TTY).await.unwrap();
        let size = Size { columns: round, rows: 24 };
        client.resizes.as_mut().unwrap().send(size).await.unwrap();
        assert_eq!(sizes.recv().await, Some(size));
        drop(client);
        assert_eq!(sizes.recv().await, None, "the session ends with its client");
    }
}

async fn all_at_once(server: &StreamServer) {
    let open = std::sync::Arc::new(Barrier::new(AT_ONCE + 1));
    let before = resident();
    let mut clients = Vec::new();
    for _ in 0..AT_ONCE {
        let open = open.clone();
        let serve = move |mut session: ProcessSession| async move {
            session.stdout.as_mut().unwrap().write(b"begun").await.unwrap();
            open.wait().await;
            session.finish(Outcome::Exited(0)).await;
        };
        let url = server.process("pod", "exec", TTY, serve).unwrap();
        let mut client = ProcessClient::connect(&url, TTY).await.unwrap();
        assert_eq!(client.stdout.as_mut().unwrap().read().await.unwrap().unwrap(), "begun");
        clients.push(client);
    }
    let each = resident().saturating_sub(before) / AT_ONCE;
    println!("a session and its client take {each} bytes");
    assert!(each < MOST, "a session and its client take {each} bytes");
    open.wait().await;
    for mut client in clients {
        assert_eq!(client.wait().await.unwrap(), 0);
        client.close().await;
    }
}
