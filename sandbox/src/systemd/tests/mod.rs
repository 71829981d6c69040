//! Starts of scopes with a [`peer`] that simulates systemd. Tests with the real systemd are in
//! `tests/pods/systemd.rs`.

mod peer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crisp_executor::{Program, ProgramFile, SpawnOptions};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{CWD, Mode as FileMode, OFlags, openat};

use self::peer::{Answers, Peer};
use super::message::{Content, Message};
use super::writer::{Call, Writer};
use super::*;

const UNIT: &str = "crisp-1.scope";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// The side of this server, for one scope in its own slice.
struct Host {
    cgroups: Cgroups,
    scope: Scope,
    holder: ScopeHolder,
    deadlines: Deadlines,
}

impl Host {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let slice =
            format!("crisp-bus-{}-{}.slice", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        // Not at the path of a real slice, because this is not one.
        let path = CgroupPath::parse(&format!("/{slice}/{UNIT}")).unwrap();
        let scope = Scope { name: UNIT.into(), path, slice, description: "Crisp pod a/b".into() };
        let deadlines = Deadlines { answer: Duration::from_secs(20), start: Duration::from_secs(60) };
        Self { cgroups: Cgroups::detect().unwrap(), scope, holder: sleeping(), deadlines }
    }

    /// For a peer that does not answer.
    fn impatient() -> Self {
        let mut host = Self::new();
        host.deadlines = Deadlines { answer: Duration::from_millis(300), start: Duration::from_millis(1500) };
        host
    }

    async fn start(&mut self, sockets: Vec<Socket>) -> Result<(), SystemdError> {
        let systemd = Systemd { deadlines: self.deadlines, ..Systemd::at(sockets, self.cgroups.clone()) };
        systemd.permit(UNIT).await?.start(&self.scope, &mut self.holder).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let slice = self.scope.path.parent().unwrap();
        let _ = self.cgroups.open(&slice).and_then(|cgroup| cgroup.kill());
        self.cgroups.remove(&slice).unwrap();
    }
}

/// Starts a scope with a peer that behaves like this.
async fn start(answers: &[Answers], is_bus: bool) -> Result<(), SystemdError> {
    start_on(Host::new(), answers, is_bus).await
}

async fn start_on(mut host: Host, answers: &[Answers], is_bus: bool) -> Result<(), SystemdError> {
    let peer = Peer::new(&host, answers);
    host.start(vec![peer.socket(is_bus)]).await
}

fn sleeping() -> ScopeHolder {
    let open = |path: &str| openat(CWD, path, OFlags::RDWR, FileMode::empty());
    let null = open("/dev/null").unwrap();
    let sleep: OwnedFd = std::fs::File::open("/bin/sleep").unwrap().into();
    let args = [c"sleep".to_owned(), c"1000".to_owned()];
    let stdio = [null.as_fd(); 3];
    let spawned = Program {
        file: ProgramFile::Open(sleep.as_fd()),
        args: &args,
        env: &[],
        stdio,
        cgroup: None,
        options: SpawnOptions::default(),
    }
    .spawn()
    .unwrap();
    ScopeHolder::of(spawned, null)
}

/// The state of a process, by its letter; None when there is no such process.
fn state(pid: i32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit(") ").next()?.chars().next()
}

#[tokio::test]
async fn a_holder_that_was_killed_may_have_lost_its_scope() {
    sleeping().end().unwrap();
    let killed = sleeping();
    let pid = rustix::process::Pid::from_raw(killed.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while !killed.has_ended() {
        tokio::task::yield_now().await;
    }
    let error = killed.end().unwrap_err().to_string();
    assert!(error.contains("ended before its time"), "{error}");
}

#[tokio::test]
async fn a_scope_is_there_when_its_job_is_done() {
    crisp_skip::needs!();
    for (answers, is_bus) in
        [(Answers::Job("done"), false), (Answers::Job("done"), true), (Answers::JobEarly("done"), true)]
    {
        let mut host = Host::new();
        let peer = Peer::new(&host, &[answers]);
        host.start(vec![peer.socket(is_bus)]).await.unwrap();
        assert!(!host.holder.is_requested);
        let call = String::from_utf8_lossy(&peer.seen.await.unwrap()).into_owned();
        let slice = host.scope.slice.as_str();
        for word in [UNIT, "fail", slice, "Delegate", "PIDs", "inactive-or-failed", "ssa(sv)a(sa(sv))"] {
            assert!(call.contains(word), "{word}: {call:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_has_systemds_words() {
    let error = start(&[Answers::Error(EXISTS, "Unit crisp-1.scope was already loaded.")], true).await;
    let error = error.unwrap_err().to_string();
    for word in ["StartTransientUnit", UNIT, "was already loaded", EXISTS] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let read_only = Answers::Error("org.freedesktop.DBus.Error.PropertyReadOnly", "Cannot set property");
    assert!(start(&[read_only], false).await.unwrap_err().to_string().contains("Cannot set property"));
    for answers in [Answers::Job("failed"), Answers::JobEarly("timeout")] {
        let error = start(&[answers], false).await.unwrap_err();
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
        let error = start_on(Host::impatient(), &[answers], true).await.unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(UNIT) && error.contains("bus"), "{error}");
    }
}

#[tokio::test]
async fn a_peer_that_is_not_systemd_is_an_error() {
    let error = |answers| async move { start_on(Host::impatient(), &[answers], false).await.unwrap_err() };
    let refused = error(Answers::RefusedHandshake).await.to_string();
    assert!(refused.contains("refuses this user: \"REJECTED EXTERNAL\""), "{refused}");
    assert!(matches!(error(Answers::Garbage).await, SystemdError::Malformed { .. }));
    assert!(matches!(error(Answers::Hangup).await, SystemdError::Broken { .. }));
}

/// With no listener, a peer that is stuck, a bus without systemd, and one that allows no more clients.
#[tokio::test]
async fn the_other_socket_is_used_where_one_is_of_no_use() {
    crisp_skip::needs!();
    for first in [
        None,
        Some(Answers::NoHandshake),
        Some(Answers::RefusedHandshake),
        Some(Answers::Nothing),
        Some(Answers::Hangup),
        Some(Answers::Error("org.freedesktop.DBus.Error.ServiceUnknown", "no systemd1")),
        Some(Answers::Error("org.freedesktop.DBus.Error.NoReply", "disconnected from message bus")),
    ] {
        let mut host = Host::new();
        host.deadlines.answer = Duration::from_secs(1);
        let stuck = first.map(|answers| Peer::new(&host, &[answers]));
        let absent = Socket { path: "/nonexistent/bus".into(), is_bus: true };
        let first = stuck.as_ref().map_or(absent, |peer| peer.socket(true));
        let peer = Peer::new(&host, &[Answers::Job("done")]);
        host.start(vec![first, peer.socket(false)]).await.unwrap();
    }
    let mut host = Host::new();
    let absent = Socket { path: "/nonexistent/bus".into(), is_bus: true };
    let error = host.start(vec![absent]).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot connect to systemd: ") && error.contains("No such file"), "{error}");
}

/// As when systemd re-executes itself in the middle of a call.
#[tokio::test]
async fn a_scope_that_was_made_without_an_answer_counts() {
    crisp_skip::needs!();
    for answers in [
        &[Answers::MadeAndHangup][..],
        &[Answers::Hangup, Answers::Job("done")],
        &[Answers::Hangup, Answers::ExistsSoon],
        &[Answers::Nothing, Answers::ExistsSoon],
    ] {
        let mut host = Host::new();
        host.deadlines.answer = Duration::from_secs(1);
        start_on(host, answers, false).await.unwrap_or_else(|error| panic!("{answers:?}: {error}"));
    }
}

#[tokio::test]
async fn a_scope_that_is_not_where_its_pod_would_be_is_an_error() {
    let mut host = Host::new();
    let peer = Peer::new(&host, &[Answers::JobOfOther]);
    let error = host.start(vec![peer.socket(false)]).await.unwrap_err();
    let SystemdError::Elsewhere { expected, found, .. } = &error else { panic!("{error}") };
    assert_eq!((expected, found.as_str()), (&host.scope.path, cgroup_of(host.holder.pid).as_str()));
    let mut host = Host::new();
    let peer = Peer::new(&host, &[Answers::JobOfOther]);
    let pid = rustix::process::Pid::from_raw(host.holder.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while state(host.holder.pid) != Some('Z') {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = host.start(vec![peer.socket(false)]).await.unwrap_err().to_string();
    assert!(error.contains("was ended by another program"), "{error}");
}

/// A request that is still unread would move a new process with that number into a pod's scope.
#[tokio::test]
async fn the_number_of_a_holder_is_not_used_again_while_systemd_may_read_it() {
    for (answers, kept) in [
        (Answers::Nothing, true),
        (Answers::JobWithoutEnd, true),
        (Answers::Error(EXISTS, "Unit was already loaded."), false),
        (Answers::NoHandshake, false),
    ] {
        let mut host = if matches!(answers, Answers::Error(..)) { Host::new() } else { Host::impatient() };
        let peer = Peer::new(&host, &[answers]);
        host.start(vec![peer.socket(false)]).await.unwrap_err();
        let (pid, begun) = (host.holder.pid, Instant::now());
        drop(host);
        let limit = Duration::from_secs(if kept { 1 } else { 30 });
        while begun.elapsed() < limit && state(pid).is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(state(pid), kept.then_some('Z'), "{answers:?}");
    }
}

#[tokio::test]
async fn all_that_is_waited_for_has_one_deadline() {
    let mut host = Host::new();
    host.deadlines = Deadlines { answer: Duration::from_millis(400), start: Duration::from_millis(500) };
    let peer = Peer::new(&host, &[Answers::Slow(300)]);
    // Each part comes within the time for one response: without a limit for all of them the scope would be made.
    let error = host.start(vec![peer.socket(false)]).await.unwrap_err();
    assert!(matches!(&error, SystemdError::Silent { .. }), "{error}");
    let systemd = Systemd { deadlines: host.deadlines, ..Systemd::at(vec![], host.cgroups.clone()) };
    let mut others = Vec::new();
    for _ in 0..STARTS {
        others.push(systemd.permit(UNIT).await.unwrap());
    }
    let error = systemd.permit(UNIT).await.map(drop).unwrap_err();
    assert!(error.to_string().starts_with("crisp-1.scope waited 500ms for systemd"), "{error}");
    others.pop();
    systemd.permit(UNIT).await.map(drop).unwrap();
}

#[tokio::test]
async fn only_systemd_tells_of_the_end_of_a_job() {
    crisp_skip::needs!();
    let mut host = Host::new();
    host.deadlines = Deadlines { answer: Duration::from_secs(30), start: Duration::from_secs(60) };
    let peer = Peer::new(&host, &[Answers::Flood]);
    host.start(vec![peer.socket(true)]).await.unwrap();
}

#[test]
fn another_cgroup_tree_than_systemds_is_refused() {
    let cgroups = Cgroups::detect().unwrap();
    for path in ["", "/", "/../init.scope", "/docker/1/init.scope", "/init.scope"] {
        let error = is_in_view(&cgroups, path, i32::MAX).unwrap_err().to_string();
        assert!(error.contains(&format!("{path:?} and not in /init.scope")), "{error}");
    }
}

#[tokio::test]
#[ignore = "run by the test below, in a PID namespace of its own"]
async fn a_server_with_other_process_ids() {
    let path: PathBuf = std::env::var_os("CRISP_TEST_SOCKET").unwrap().into();
    let systemd = Systemd::at(vec![Socket { path, is_bus: false }], Cgroups::detect().unwrap());
    let error = systemd.reach().await.unwrap_err().to_string();
    assert!(error.contains("in another PID namespace than systemd"), "{error}");
}

#[tokio::test]
async fn another_pid_namespace_than_systemds_is_refused() {
    crisp_skip::needs!("unshare");
    let peer = Peer::new(&Host::new(), &[Answers::Nothing]);
    Systemd::at(vec![peer.socket(false)], Cgroups::detect().unwrap()).reach().await.unwrap();
    let output = tokio::process::Command::new("unshare")
        .args(["--pid", "--fork"])
        .arg(std::env::current_exe().unwrap())
        .args(["systemd::tests::a_server_with_other_process_ids", "--exact", "--ignored"])
        .env("CRISP_TEST_SOCKET", &peer.path)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// As after the death of the holder, or with a systemd that has forgotten the scope.
#[test]
fn a_scope_that_systemd_does_not_remove_is_removed() {
    crisp_skip::needs!();
    let cgroups = Cgroups::detect().unwrap();
    let slice = CgroupPath::parse(&format!("/crisp-scope-{}.slice", std::process::id())).unwrap();
    let scope = slice.child("crisp-1.scope").unwrap();
    cgroups.create_for_supervisor(&scope.child("pod").unwrap()).unwrap();
    empty_scope(&cgroups, &scope).unwrap();
    assert!(cgroups.remove_if_empty(&slice).unwrap());
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
