//! Sends events of pods to the clients that wait for them.

use std::sync::Arc;

use crisp_proto::crisp::v1::StandaloneEvent;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tonic::Status;

use super::super::image::OF_IMAGE;
use super::halt::STARTED;
use super::pod::{Halt, State, SupervisedPod, Then};

/// The events of one client.
pub type Sender = mpsc::Sender<Result<StandaloneEvent, Status>>;

pub async fn send_line(sender: &Sender, pod: &str, text: &str, is_failure: bool) {
    let event = StandaloneEvent {
        pod: pod.to_owned(),
        text: text.to_owned(),
        is_failure,
        ..StandaloneEvent::default()
    };
    // Fails when the client has gone, which is fine.
    let _ = sender.send(Ok(event)).await;
}

/// Tells the client which container was started, and waits until the client has gone.
pub async fn stay_attached(pod: &str, container_id: String, sender: &Sender) {
    let text = "is attached".to_owned();
    let event = StandaloneEvent { pod: pod.to_owned(), text, container_id, ..StandaloneEvent::default() };
    if sender.send(Ok(event)).await.is_ok() {
        sender.closed().await;
    }
}

/// Removes the pods at the same time, and waits until they are gone.
pub async fn take_down(pods: Vec<Arc<SupervisedPod>>, kill: bool, sender: &Sender) {
    let ask = |pod: &Arc<SupervisedPod>| {
        let pod = Arc::clone(pod);
        async move { pod.go_down(kill).await }
    };
    pods.iter().map(ask).collect::<JoinSet<_>>().join_all().await;
    follow_down(pods, sender).await;
}

/// Like [`take_down`], but only those that have ended or are stopped.
pub async fn take_down_at_rest(pods: Vec<Arc<SupervisedPod>>, sender: &Sender) {
    let mut going_down = Vec::new();
    for pod in pods {
        match pod.go_down_if_at_rest().await {
            true => going_down.push(pod),
            false => send_line(sender, &pod.pod.name, "is not stopped, and is kept", true).await,
        }
    }
    follow_down(going_down, sender).await;
}

async fn follow_down(pods: Vec<Arc<SupervisedPod>>, sender: &Sender) {
    for pod in pods {
        let (_, mut lines) = pod.journal.follow();
        let mut states = pod.state.subscribe();
        let down = states.wait_for(|state| *state == State::Down);
        tokio::select! {
            _ = down => {}
            () = pass_on(&pod, &mut lines, sender) => {}
        }
        send_line(sender, &pod.pod.name, "is down", false).await;
    }
}

/// Sends the events of a new pod, until its containers have started, it has ended, or it could not be run.
pub async fn follow_new(pod: Arc<SupervisedPod>, sender: Sender) {
    let (before, lines) = pod.journal.follow();
    for line in before {
        send_line(&sender, &pod.pod.name, &line, false).await;
    }
    follow_until_up(&pod, lines, &sender).await;
}

/// Stops the pod until a client starts it.
pub async fn halt(pod: &SupervisedPod, grace: Option<u32>, sender: &Sender) {
    let (_, mut lines) = pod.journal.follow();
    let halted = async {
        pod.halt(Halt { grace, then: Then::Rest }).await?;
        pod.halted().await
    };
    let halted = tokio::select! {
        halted = halted => halted,
        () = pass_on(pod, &mut lines, sender) => Ok(()),
    };
    match halted {
        Ok(()) => send_line(sender, &pod.pod.name, "is stopped", false).await,
        Err(error) => send_line(sender, &pod.pod.name, &format!("{error:#}"), true).await,
    }
}

/// Stops the pod and starts it. The client takes a failure among the lines for the failure of the restart, so it
/// gets none of the earlier run.
pub async fn restart(pod: &SupervisedPod, grace: Option<u32>, sender: &Sender) {
    let (_, mut lines) = pod.journal.follow();
    let restarted = async {
        pod.halt(Halt { grace, then: Then::Start }).await?;
        pod.restarted().await
    };
    match restarted.await {
        Ok(()) => {
            skip_earlier_run(&mut lines);
            follow_until_up(pod, lines, sender).await;
        }
        Err(error) => send_line(sender, &pod.pod.name, &format!("{error:#}"), true).await,
    }
}

/// Starts a pod that was stopped or has ended.
pub async fn start(pod: &SupervisedPod, sender: &Sender) {
    // The lines of its earlier runs are of no interest.
    let (_, lines) = pod.journal.follow();
    match pod.start_again().await {
        Ok(true) => follow_until_up(pod, lines, sender).await,
        Ok(false) => send_line(sender, &pod.pod.name, "runs already", false).await,
        Err(error) => send_line(sender, &pod.pod.name, &format!("{error:#}"), true).await,
    }
}

async fn follow_until_up(pod: &SupervisedPod, mut lines: broadcast::Receiver<String>, sender: &Sender) {
    let mut states = pod.state.subscribe();
    let names: Vec<String> = pod.pod.containers.iter().map(|container| container.name.clone()).collect();
    // A container that has ended already did start.
    let delayed = async {
        match pod.pod.annotations.contains_key(OF_IMAGE) {
            true => pod.conditions.any_delayed().await,
            false => std::future::pending().await,
        }
    };
    let text = tokio::select! {
        () = pod.conditions.all_started(&names) => Ok("is up".to_owned()),
        () = delayed => Ok("has ended, and is started again by its policy".to_owned()),
        state = states.wait_for(|state| *state != State::Running) => match state.map(|state| state.clone()) {
            Ok(State::Ended(0)) => Ok("has ended".to_owned()),
            Ok(State::Ended(code)) => Err(format!("has failed with code {code}")),
            Ok(State::Waiting(reason)) => Err(format!("cannot be run, and is tried again: {reason}")),
            Ok(State::Stopped) => Ok("is stopped".to_owned()),
            Ok(State::Down | State::Running) | Err(_) => Ok("is down".to_owned()),
        },
        () = pass_on(pod, &mut lines, sender) => return,
    };
    // The reason is sent before its result.
    while let Ok(line) = lines.try_recv() {
        send_line(sender, &pod.pod.name, &line, false).await;
    }
    let is_failure = text.is_err();
    send_line(sender, &pod.pod.name, &text.unwrap_or_else(|text| text), is_failure).await;
}

/// Leaves the lines after the start of the present run.
fn skip_earlier_run(lines: &mut broadcast::Receiver<String>) {
    use broadcast::error::TryRecvError;
    loop {
        match lines.try_recv() {
            Ok(line) if line == STARTED => return,
            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

/// Never returns, unless the pod's journal ends.
async fn pass_on(pod: &SupervisedPod, lines: &mut broadcast::Receiver<String>, sender: &Sender) {
    loop {
        match lines.recv().await {
            Ok(line) => send_line(sender, &pod.pod.name, &line, false).await,
            // A slow client misses lines, but not the end.
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_shows_no_line_of_the_earlier_run() {
        let lines = broadcast::Sender::new(3);
        let mut receiver = lines.subscribe();
        for line in
            ["first", "web cannot be started: busy", STARTED, "web cannot be started: no such program"]
        {
            lines.send(line.to_owned()).unwrap();
        }
        skip_earlier_run(&mut receiver);
        assert_eq!(receiver.try_recv().unwrap(), "web cannot be started: no such program");
        lines.send("of the earlier run".to_owned()).unwrap();
        skip_earlier_run(&mut receiver);
        assert!(receiver.try_recv().is_err());
    }
}
