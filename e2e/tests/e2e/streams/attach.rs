//! Several clients that are attached to one container at once: early, late and slow ones.

use crisp_e2e::session::{Channel, Process, Protocol, Streams};
use crisp_e2e::{Lab, Result, Setup, needs};
use k8s_cri::v1::ContainerConfig;

use super::protocols::{PIPES, attach_url};

const OUTPUT: Streams = Streams { stdin: false, tty: false };
const FAST: [Protocol; 3] = [Protocol::SpdyV4, Protocol::WebSocketV4, Protocol::WebSocketV5];
const SLOW: [Protocol; 3] = [Protocol::SpdyV4, Protocol::WebSocketV5, Protocol::Base64V1];

/// Ticks until a file is there. Then prints much more than all buffers hold, at a pace that a client can follow.
const MUCH: &str = "n=0; until test -e /go; do n=$((n+1)); echo tick $n; sleep 0.05; done; rest=$(echo $(seq 1000 1199)); \
                    i=10; while [ $i -lt 40 ]; do yes $i $rest | head -n 1000; sleep 0.05; i=$((i+1)); done; exit 7";

/// The output after the ticks.
fn much() -> String {
    let rest: String = (1000..=1199).map(|number| format!(" {number}")).collect();
    (10..40).map(|part| format!("{part}{rest}\n").repeat(1000)).collect()
}

/// Attaches a client and waits for its first output.
async fn attached(lab: &mut Lab, id: &str, protocol: Protocol) -> Result<Process> {
    let mut client = Process::open(&attach_url(lab, id, OUTPUT).await?, protocol, OUTPUT)?;
    client.until(|client| !ticks(client).is_empty())?;
    Ok(client)
}

/// The numbers of the complete ticks that a client has seen.
fn ticks(client: &Process) -> Vec<u32> {
    let text = client.text(Channel::Stdout);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map_while(|line| line.strip_prefix("tick ")?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn late_clients_see_all_from_then_on_and_slow_ones_are_cut_and_hold_up_no_other() -> Result<()> {
    needs!("docker-registry", "busybox");
    // One log file has all output.
    let args = ["--container-log-max-size", "1000000000"].map(str::to_owned).to_vec();
    let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
    let (sandbox, pod) = lab.pod("attach-many").await?;
    let id = lab.client.launch(&pod, &lab.shell(MUCH), &sandbox).await?;
    let (mut fast, mut slow) = (Vec::new(), Vec::new());
    for protocol in SLOW {
        slow.push((protocol, attached(&mut lab, &id, protocol).await?));
    }
    for protocol in FAST {
        let seen = fast.last_mut().map_or(Ok(0), |(_, before): &mut (Protocol, Process)| -> Result<u32> {
            before.until(|before| ticks(before).len() > 3)?;
            Ok(*ticks(before).last().ok_or("no ticks")?)
        })?;
        let client = attached(&mut lab, &id, protocol).await?;
        assert!(ticks(&client)[0] > seen, "{protocol:?}: {:?} after {seen}", ticks(&client));
        fast.push((protocol, client));
    }
    lab.client.exec(&id, &["touch", "/go"]).await?;
    let readers = fast.into_iter().map(|(protocol, mut client)| {
        tokio::task::spawn_blocking(move || -> Result<(Protocol, Process)> {
            let code = client.exit_code().map_err(|error| format!("{protocol:?}: {error}"))?;
            // The status of an attach is about the session.
            assert_eq!(code, 0, "{protocol:?}");
            Ok((protocol, client))
        })
    });
    let readers: Vec<_> = readers.collect();
    assert_eq!(lab.client.wait(&id).await?.exit_code, 7, "the container was held up");
    let expected = much();
    for reader in readers {
        let (protocol, client) = reader.await??;
        let ticks = ticks(&client);
        assert!(ticks.windows(2).all(|pair| pair[1] == pair[0] + 1), "{protocol:?}: {ticks:?}");
        assert!(
            client.heard(Channel::Stdout).ends_with(expected.as_bytes()),
            "{protocol:?}: output is missing"
        );
    }
    for (protocol, mut client) in slow {
        let reason = client.exit_code().expect_err("it is cut").to_string();
        assert!(reason.contains("too slowly"), "{protocol:?}: {reason}");
        assert!(client.heard(Channel::Stdout).len() < expected.len(), "{protocol:?}");
    }
    let log = lab.machine.container_log("attach-many", "main")?;
    assert!(log.ends_with(&expected), "{} of {} bytes are in the log", log.len(), expected.len());
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_share_a_container_see_each_others_input_and_go_on_when_one_leaves() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("attach-shared").await?;
    let config = ContainerConfig { stdin: true, ..lab.shell("while read x; do echo got $x; done") };
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    let mut clients: Vec<(String, Process)> = Vec::new();
    for protocol in Protocol::ALL {
        let client = Process::open(&attach_url(&mut lab, &id, PIPES).await?, protocol, PIPES)?;
        clients.push((format!("{protocol:?}"), client));
        let (said, heard) = (clients.len() - 1, format!("got {protocol:?}\n"));
        clients[said].1.send(Channel::Stdin, format!("{protocol:?}\n").as_bytes())?;
        for (name, client) in &mut clients {
            client
                .until(|client| client.text(Channel::Stdout).ends_with(&heard))
                .map_err(|error| format!("{name}: {error}"))?;
        }
    }
    while let Some((name, left)) = clients.pop() {
        drop(left);
        let Some((_, last)) = clients.last_mut() else { break };
        last.send(Channel::Stdin, format!("without {name}\n").as_bytes())?;
        for (other, client) in &mut clients {
            client
                .until(|client| client.text(Channel::Stdout).ends_with(&format!("got without {name}\n")))
                .map_err(|error| format!("{other}: {error}"))?;
        }
    }
    lab.close().await
}
