//! The end of commands whose client or server is gone: SIGHUP, and after the time of the setting the end of all that
//! they have started.

use std::time::{Duration, Instant};

use crisp_e2e::session::{Channel, Process, Protocol, Streams};
use crisp_e2e::standalone::processes_with;
use crisp_e2e::{Lab, Result, Setup, needs};

use super::held::Held;
use super::hostile::runs;
use super::protocols::{PIPES, TERMINAL, exec};

/// The way in which sessions lose their other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Client,
    ServerKilled,
    ServerStopped,
    /// The server is killed while the commands of a vanished client have their grace time.
    ClientThenServer,
}

#[derive(Debug, Clone, Copy)]
struct Command {
    name: &'static str,
    /// The reaction to SIGHUP, after a note of it.
    at_hup: &'static str,
    /// The work until then.
    works: &'static str,
    streams: Streams,
    /// Whether it always lives until its SIGHUP.
    waits: bool,
}

const LOOPS: &str = "while :; do sleep 0.1; done";

/// - One goes on after SIGHUP.
/// - One ends and leaves its child.
/// - One does the same on a terminal.
/// - One ends at the end of its input, which may come before the end of its server is known.
const COMMANDS: [Command; 4] = [
    Command { name: "goes-on", at_hup: ":", works: LOOPS, streams: PIPES, waits: true },
    Command { name: "leaves", at_hup: "exit", works: LOOPS, streams: PIPES, waits: true },
    Command { name: "hung-up", at_hup: "exit", works: LOOPS, streams: TERMINAL, waits: true },
    Command { name: "reads", at_hup: "exit", works: "cat >/dev/null", streams: PIPES, waits: false },
];

/// A command under way, with a child that ignores SIGHUP, and one in the same process group that notes it and ends.
struct Deaf {
    command: Command,
    session: Option<Process>,
    /// An argument of the child that ignores SIGHUP, and of no other process.
    child: String,
}

impl Deaf {
    async fn start(lab: &mut Lab, id: &str, command: Command) -> Result<Self> {
        let Command { name, at_hup, works, streams, .. } = command;
        let child = format!("7{:05}.{}", std::process::id() % 100_000, unique());
        // The output of a command whose server is killed has no reader: the shell's word on an ended child would end it.
        let line = format!(
            "trap 'echo hup >> /tmp/{name}; {at_hup}' HUP; sh -c \"trap '' HUP; exec sleep {child}\" & \
             sh -c \"trap 'echo hup >> /tmp/{name}-child; exit' HUP; touch /tmp/{name}-up; \
             while :; do sleep 0.1; done\" 2>/dev/null & \
             echo up; exec 2>/dev/null; {works}"
        );
        let mut session = exec(lab, id, &line, Protocol::WebSocketV5, streams).await?;
        session.until(|session| session.text(Channel::Stdout).trim() == "up")?;
        // With its trap: the process has this argument of its own only after the exec behind it.
        runs(&child).await;
        lab.client.until(id, &format!("test -e /tmp/{name}-up")).await?;
        Ok(Self { command, session: Some(session), child })
    }
}

/// A number that no other call returns.
fn unique() -> u32 {
    static LAST: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Waits until all these commands have got SIGHUP, and their process groups.
async fn until_heard(lab: &mut Lab, id: &str, commands: impl Iterator<Item = Command>) -> Result<()> {
    for Command { name, .. } in commands {
        lab.client.until(id, &format!("test -e /tmp/{name} && test -e /tmp/{name}-child")).await?;
    }
    Ok(())
}

impl Loss {
    async fn happen(self, lab: &mut Lab, id: &str, commands: &mut [Deaf], grace: Duration) -> Result<()> {
        match self {
            Self::Client => commands.iter_mut().for_each(|command| command.session = None),
            Self::ServerKilled => lab.machine.kill_server(),
            Self::ServerStopped => lab.machine.stop_server()?,
            Self::ClientThenServer => {
                let begun = Instant::now();
                commands.iter_mut().for_each(|command| command.session = None);
                until_heard(lab, id, COMMANDS.into_iter()).await?;
                assert!(begun.elapsed() < grace, "the server has killed the commands itself");
                lab.machine.kill_server();
            }
        }
        if self != Self::Client {
            // The next server must neither end the commands early, nor forget them.
            lab.machine.start_server().await?;
            lab.client = lab.machine.client().await?;
        }
        Ok(())
    }

    /// Measures the time from the loss to the end of the last process that each command had started.
    async fn time_to_the_kill(self, grace: Duration) -> Result<()> {
        let args = vec!["--exec-grace".to_owned(), grace.as_secs().to_string()];
        let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
        let (sandbox, pod) = lab.pod("grace").await?;
        let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
        let held = Held::warmed_up(&mut lab, &pod, &id).await?;
        let mut commands = Vec::new();
        for command in COMMANDS {
            commands.push(Deaf::start(&mut lab, &id, command).await?);
        }
        let begun = Instant::now();
        self.happen(&mut lab, &id, &mut commands, grace).await?;
        let lost = Instant::now();
        // A command that was killed at once would not note it.
        let hear = COMMANDS.into_iter().filter(|command| command.waits || self != Self::ServerKilled);
        until_heard(&mut lab, &id, hear.clone()).await?;
        let mut living: Vec<_> =
            commands.iter().map(|deaf| (deaf.command.name, deaf.child.clone())).collect();
        while !living.is_empty() {
            assert!(lost.elapsed() < grace + Duration::from_secs(30), "{self:?}: not killed: {living:?}");
            living.retain(|(_, child)| !processes_with(child).is_empty());
            let passed = begun.elapsed();
            let is_early = living.len() < commands.len() && passed < grace;
            assert!(!is_early, "{self:?}: after {passed:?} there is only {living:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("{self:?}, with a grace time of {grace:?}: killed after {:?}", begun.elapsed());
        for Command { name, streams, .. } in hear {
            // On a terminal the child gets another one, from the kernel, when the command ends.
            let child = (!streams.tty).then(|| format!("{name}-child"));
            for file in [Some(name.to_owned()), child].into_iter().flatten() {
                let heard = lab.client.sh(&id, &format!("cat /tmp/{file}")).await?;
                assert_eq!(heard, "hup\n", "{self:?}: {file}, {streams:?}");
            }
        }
        lab.client.until(&id, "! ps | grep -q '[s]leep 0.1'").await?;
        held.again_in_monitors(&lab).await?;
        lab.close().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_lose_their_client_or_server_are_killed_after_the_time_of_the_setting() -> Result<()> {
    needs!("docker-registry", "busybox");
    let cases = [
        (Loss::Client, 5),
        (Loss::Client, 15),
        (Loss::ServerKilled, 5),
        (Loss::ServerKilled, 15),
        (Loss::ServerStopped, 5),
        (Loss::ClientThenServer, 12),
    ];
    let cases = cases.map(|(loss, grace)| tokio::spawn(loss.time_to_the_kill(Duration::from_secs(grace))));
    for case in cases {
        case.await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_has_left_on_purpose_outlives_its_server() -> Result<()> {
    needs!("docker-registry", "busybox");
    let args = vec!["--exec-grace".to_owned(), "1".to_owned()];
    let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
    let (sandbox, pod) = lab.pod("daemons").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let mut daemons = Vec::new();
    for streams in [PIPES, TERMINAL] {
        let number = format!("7{:05}.{}", std::process::id() % 100_000, unique());
        let line = format!(
            "(trap '' HUP; exec busybox setsid sh -c 'touch /tmp/{number}; exec sleep {number}' </dev/null >/dev/null 2>&1) & \
             until [ -e /tmp/{number} ]; do sleep 0.1; done"
        );
        let mut command = exec(&mut lab, &id, &line, Protocol::WebSocketV5, streams).await?;
        assert_eq!(command.exit_code()?, 0);
        daemons.push((streams, number));
    }
    lab.machine.kill_server();
    lab.machine.start_server().await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    for (streams, number) in daemons {
        assert!(!processes_with(&number).is_empty(), "{streams:?}: its daemon is gone");
    }
    lab.client = lab.machine.client().await?;
    lab.close().await
}
