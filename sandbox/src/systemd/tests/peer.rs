//! A peer that simulates systemd: it responds as the test requires.

use std::path::PathBuf;

use rustix::fs::{Mode as FileMode, OFlags, openat};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;
use crate::systemd::message::{self, FIXED, total};
use crate::systemd::writer::Writer;

const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const JOB: &str = "/org/freedesktop/systemd1/job/7";
/// systemd's name on the bus.
const SYSTEMD: &str = ":1.1";

/// The behaviour of the peer in one connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Answers {
    Nothing,
    NoHandshake,
    RefusedHandshake,
    Error(&'static str, &'static str),
    /// The scope is there then.
    Job(&'static str),
    /// The signal before the response, after one of another unit's job.
    JobEarly(&'static str),
    JobWithoutEnd,
    /// The scope exists, with another process in it.
    JobOfOther,
    /// Each part of a response after this many milliseconds.
    Slow(u64),
    Garbage,
    Hangup,
    /// After it has made the scope.
    MadeAndHangup,
    /// As [`EXISTS`], before the scope is there.
    ExistsSoon,
    /// Other clients of the bus first send messages like systemd's.
    Flood,
}

pub(super) struct Peer {
    _folder: tempfile::TempDir,
    pub(super) path: PathBuf,
    /// The call that started the scope.
    pub(super) seen: tokio::task::JoinHandle<Vec<u8>>,
}

impl Peer {
    /// Each connection gets the next of `answers`; further ones get the last.
    pub(super) fn new(host: &Host, answers: &[Answers]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let (answers, place) = (answers.to_vec(), (host.cgroups.clone(), host.scope.path.clone()));
        let seen = tokio::spawn(async move {
            let mut last = vec![];
            for n in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let answers = answers[n.min(answers.len() - 1)];
                last = serve(stream, answers, &place).await;
                if matches!(answers, Answers::Job(_) | Answers::JobEarly(_)) {
                    break;
                }
            }
            last
        });
        Self { _folder: folder, path, seen }
    }

    pub(super) fn socket(&self, is_bus: bool) -> Socket {
        Socket { path: self.path.clone(), is_bus }
    }
}

/// Makes the scope of the call, as systemd would.
fn make_scope((cgroups, path): &(Cgroups, CgroupPath), call: &[u8]) {
    let before = b"PIDs\0\x02au\0";
    let at = call.windows(before.len()).position(|bytes| bytes == before).unwrap() + before.len();
    let at = at.next_multiple_of(4) + 4;
    let pid = u32::from_ne_bytes(call[at..at + 4].try_into().unwrap());
    let cgroup = cgroups.create_for_supervisor(path).unwrap().join().unwrap();
    let procs = openat(cgroup.v2.unwrap(), "cgroup.procs", OFlags::WRONLY, FileMode::empty()).unwrap();
    rustix::io::write(procs, pid.to_string().as_bytes()).unwrap();
}

/// Returns the call that it received.
async fn serve(mut stream: UnixStream, answers: Answers, place: &(Cgroups, CgroupPath)) -> Vec<u8> {
    if answers == Answers::NoHandshake {
        return wait(stream).await;
    }
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let Ok(byte) = stream.read_u8().await else { return vec![] };
        line.push(byte);
    }
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(line, format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes());
    if answers == Answers::RefusedHandshake {
        stream.write_all(b"REJECTED EXTERNAL\r\n").await.unwrap();
        return wait(stream).await;
    }
    pause(answers).await;
    stream.write_all(b"OK 0123\r\n").await.unwrap();
    if stream.read_exact(&mut [0; b"BEGIN\r\n".len()]).await.is_err() {
        return vec![];
    }
    let mut serial = 0;
    let call = loop {
        serial += 1;
        let call = whole(&mut stream).await;
        if String::from_utf8_lossy(&call).contains("StartTransientUnit") {
            break call;
        }
        // From the bus itself: Hello, AddMatch.
        stream.write_all(&answer(serial, "s", |body| body.string(":1.7"))).await.unwrap();
    };
    answer_call(&mut stream, answers, serial, &call, place).await;
    if !matches!(answers, Answers::Hangup | Answers::MadeAndHangup) {
        wait(stream).await;
    }
    call
}

async fn answer_call(
    stream: &mut UnixStream,
    answers: Answers,
    serial: u32,
    call: &[u8],
    place: &(Cgroups, CgroupPath),
) {
    let job = answer(serial, "o", |body| body.string(JOB));
    let forged = removed(":1.66", MANAGER_PATH, JOB, UNIT, "failed");
    let ended = |job: &str, unit: &str, result: &str| removed(SYSTEMD, MANAGER_PATH, job, unit, result);
    if matches!(answers, Answers::Job("done") | Answers::JobEarly("done") | Answers::MadeAndHangup)
        || answers == Answers::Flood
    {
        make_scope(place, call);
    }
    let parts = match answers {
        Answers::Error(name, text) => vec![error(serial, name, text)],
        Answers::Job(result) => vec![job, ended("/job/1", UNIT, "canceled"), ended(JOB, UNIT, result)],
        Answers::JobEarly(result) => vec![ended(JOB, "other.scope", "failed"), ended(JOB, UNIT, result), job],
        Answers::JobOfOther => vec![job, ended(JOB, UNIT, "done")],
        Answers::JobWithoutEnd => vec![job],
        Answers::Slow(_) => vec![job, ended(JOB, UNIT, "done")],
        Answers::Garbage => vec![vec![b'l'; 64]],
        Answers::ExistsSoon => vec![error(serial, EXISTS, "Unit was already loaded.")],
        Answers::Flood => {
            let elsewhere = removed(SYSTEMD, "/elsewhere", JOB, UNIT, "failed");
            let mut parts = vec![forged.repeat(1000); 100];
            parts.extend([elsewhere.clone(), job, forged, elsewhere, ended(JOB, UNIT, "done")]);
            parts
        }
        Answers::Nothing | Answers::NoHandshake | Answers::RefusedHandshake => vec![],
        Answers::Hangup | Answers::MadeAndHangup => vec![],
    };
    for part in parts {
        pause(answers).await;
        // The client may have left.
        let _ = stream.write_all(&part).await;
    }
    if answers == Answers::ExistsSoon {
        tokio::time::sleep(Duration::from_millis(100)).await;
        make_scope(place, call);
    }
}

async fn pause(answers: Answers) {
    if let Answers::Slow(ms) = answers {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// Waits until the client disconnects.
async fn wait(mut stream: UnixStream) -> Vec<u8> {
    let _ = stream.read_to_end(&mut Vec::new()).await;
    vec![]
}

async fn whole(stream: &mut UnixStream) -> Vec<u8> {
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).await.unwrap();
    let mut bytes = fixed.to_vec();
    bytes.resize(total(&fixed).unwrap(), 0);
    stream.read_exact(&mut bytes[FIXED..]).await.unwrap();
    bytes
}

fn answer(serial: u32, signature: &str, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    message::tests::incoming(2, &[(5, serial.to_string().as_str()), (7, SYSTEMD)], signature, fill)
}

fn error(serial: u32, name: &str, text: &str) -> Vec<u8> {
    let fields = [(5, serial.to_string()), (4, name.to_owned())];
    let fields: Vec<(u8, &str)> = fields.iter().map(|(code, text)| (*code, text.as_str())).collect();
    message::tests::incoming(3, &fields, "s", |body| body.string(text))
}

fn removed(sender: &str, path: &str, job: &str, unit: &str, result: &str) -> Vec<u8> {
    let fields = [(1, path), (2, MANAGER), (3, "JobRemoved"), (7, sender)];
    message::tests::incoming(4, &fields, "uoss", |body| {
        body.u32(7);
        [job, unit, result].into_iter().for_each(|text| body.string(text));
    })
}
