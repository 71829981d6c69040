//! A peer that stands for systemd: it answers as the test says. What systemd itself does is in
//! `tests/pods/systemd.rs`.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::message::{Call, Content, FIXED, Message, Writer, total};
use super::*;

const UNIT: &str = "crisp-1.scope";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const JOB: &str = "/org/freedesktop/systemd1/job/7";

/// What the peer does after the handshake.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answers {
    Nothing,
    NoHandshake,
    RefusedHandshake,
    Error(&'static str, &'static str),
    Job(&'static str),
    /// The signal before the answer, after one of another unit's job.
    JobEarly(&'static str),
    JobWithoutEnd,
    Garbage,
    Hangup,
}

struct Peer {
    _folder: tempfile::TempDir,
    path: PathBuf,
    seen: tokio::task::JoinHandle<Vec<u8>>,
}

impl Peer {
    fn new(answers: Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let seen = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, answers).await
        });
        Self { _folder: folder, path, seen }
    }

    async fn start(&self, is_bus: bool) -> Result<(), SystemdError> {
        let socket = Socket { path: self.path.clone(), is_bus };
        let systemd = Systemd { answer: Duration::from_millis(300), ..Systemd::at(vec![socket]) };
        systemd.start_scope(&scope(), 77).await
    }
}

fn scope() -> Scope {
    Scope { name: UNIT.into(), slice: "a-b.slice".into(), description: "Crisp pod a/b".into() }
}

/// Returns the call that it was sent.
async fn serve(mut stream: UnixStream, answers: Answers) -> Vec<u8> {
    if answers == Answers::NoHandshake {
        return wait(stream).await;
    }
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(line, format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes());
    if answers == Answers::RefusedHandshake {
        stream.write_all(b"REJECTED EXTERNAL\r\n").await.unwrap();
        return wait(stream).await;
    }
    stream.write_all(b"OK 0123\r\n").await.unwrap();
    stream.read_exact(&mut [0; b"BEGIN\r\n".len()]).await.unwrap();
    let mut serial = 0;
    let call = loop {
        serial += 1;
        let call = whole(&mut stream).await;
        if String::from_utf8_lossy(&call).contains("StartTransientUnit") {
            break call;
        }
        // Of the bus itself: Hello, AddMatch.
        stream.write_all(&answer(serial, "s", |body| body.string(":1.7"))).await.unwrap();
    };
    let job = |body: &mut Writer| body.string(JOB);
    match answers {
        Answers::Error(name, text) => stream.write_all(&error(serial, name, text)).await.unwrap(),
        Answers::Job(result) => {
            stream.write_all(&answer(serial, "o", job)).await.unwrap();
            stream.write_all(&removed("/job/1", UNIT, "canceled")).await.unwrap();
            stream.write_all(&removed(JOB, UNIT, result)).await.unwrap();
        }
        Answers::JobEarly(result) => {
            stream.write_all(&removed(JOB, "other.scope", "failed")).await.unwrap();
            stream.write_all(&removed(JOB, UNIT, result)).await.unwrap();
            stream.write_all(&answer(serial, "o", job)).await.unwrap();
        }
        Answers::JobWithoutEnd => stream.write_all(&answer(serial, "o", job)).await.unwrap(),
        Answers::Garbage => stream.write_all(&[b'l'; 64]).await.unwrap(),
        Answers::Hangup => return call,
        Answers::Nothing | Answers::NoHandshake | Answers::RefusedHandshake => {}
    }
    wait(stream).await;
    call
}

/// Until the client hangs up.
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
    message::tests::incoming(2, &[(5, serial.to_string().as_str())], signature, fill)
}

fn error(serial: u32, name: &str, text: &str) -> Vec<u8> {
    let fields = [(5, serial.to_string()), (4, name.to_owned())];
    let fields: Vec<(u8, &str)> = fields.iter().map(|(code, text)| (*code, text.as_str())).collect();
    message::tests::incoming(3, &fields, "s", |body| body.string(text))
}

fn removed(job: &str, unit: &str, result: &str) -> Vec<u8> {
    let fields = [(1, "/org/freedesktop/systemd1"), (2, MANAGER), (3, "JobRemoved")];
    message::tests::incoming(4, &fields, "uoss", |body| {
        body.u32(7);
        [job, unit, result].into_iter().for_each(|text| body.string(text));
    })
}

#[tokio::test]
async fn a_scope_is_there_when_its_job_is_done() {
    for (answers, is_bus) in
        [(Answers::Job("done"), false), (Answers::Job("done"), true), (Answers::JobEarly("done"), true)]
    {
        let peer = Peer::new(answers);
        peer.start(is_bus).await.unwrap();
        let call = String::from_utf8_lossy(&peer.seen.await.unwrap()).into_owned();
        for word in [UNIT, "fail", "a-b.slice", "Delegate", "PIDs", "inactive-or-failed", "ssa(sv)a(sa(sv))"]
        {
            assert!(call.contains(word), "{word}: {call:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_has_systemds_words() {
    let exists = "org.freedesktop.systemd1.UnitExists";
    let peer = Peer::new(Answers::Error(exists, "Unit crisp-1.scope was already loaded."));
    let error = peer.start(true).await.unwrap_err().to_string();
    for word in ["StartTransientUnit", UNIT, "was already loaded", exists] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let peer =
        Peer::new(Answers::Error("org.freedesktop.DBus.Error.PropertyReadOnly", "Cannot set property"));
    assert!(peer.start(false).await.unwrap_err().to_string().contains("Cannot set property"));
    for answers in [Answers::Job("failed"), Answers::JobEarly("timeout")] {
        let error = Peer::new(answers).start(false).await.unwrap_err();
        assert!(matches!(&error, SystemdError::Job { unit, .. } if unit == UNIT), "{error}");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_given_up_and_the_error_says_what_was_waited_for() {
    for (answers, what) in [
        (Answers::NoHandshake, "the handshake"),
        (Answers::Nothing, "the answer to StartTransientUnit"),
        (Answers::JobWithoutEnd, "the end of the job"),
    ] {
        let error = Peer::new(answers).start(true).await.unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(UNIT) && error.contains("bus"), "{error}");
    }
}

#[tokio::test]
async fn a_peer_that_is_not_systemd_is_an_error() {
    let error = |answers| async move { Peer::new(answers).start(false).await.unwrap_err() };
    assert!(matches!(error(Answers::RefusedHandshake).await, SystemdError::Refused { .. }));
    assert!(matches!(error(Answers::Garbage).await, SystemdError::Malformed { .. }));
    assert!(matches!(error(Answers::Hangup).await, SystemdError::Broken { .. }));
}

#[tokio::test]
async fn the_second_socket_is_used_where_the_first_has_no_listener() {
    let peer = Peer::new(Answers::Job("done"));
    let absent = Socket { path: "/nonexistent/bus".into(), is_bus: true };
    let present = Socket { path: peer.path.clone(), is_bus: false };
    Systemd::at(vec![absent.clone(), present]).start_scope(&scope(), 77).await.unwrap();
    let error = Systemd::at(vec![absent]).start_scope(&scope(), 77).await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/bus: No such file"), "{error}");
}

#[test]
fn a_call_reads_back_as_it_was_written() {
    let call = Call { destination: "d.e", path: "/p", interface: "i.f", member: "M", signature: "s" };
    let mut body = Writer::default();
    body.string("text");
    let bytes = call.write(9, &body);
    assert_eq!(&bytes[..4], [if cfg!(target_endian = "little") { b'l' } else { b'B' }, 1, 0, 1]);
    let read = Message::parse(&bytes).unwrap();
    assert_eq!((read.reply_to, read.content(MANAGER)), (None, Content::Other));
}
