//! `crisp stop`, `start`, `restart` and `create` for containers of `crisp run -d IMAGE`.

use std::time::{Duration, Instant};

use crisp_e2e::{Machine, Result, needs};

use crate::run_image_detached::{crisp, machine, until};

/// Counts its starts in a file of the container, and ends with code 3 when it is stopped.
pub const COUNTS: &str = "echo x >> /count; trap 'exit 3' TERM; while :; do sleep 0.1; done";
/// A container of the policy Always is started again at once when it has ended for the first time.
const SOON: Duration = Duration::from_secs(2);

/// A command that succeeds; returns its output.
pub fn good(machine: &Machine, args: &[&str]) -> Result<String> {
    let (code, out, err) = crisp(machine, args)?;
    assert_eq!(code, Some(0), "{args:?}: {out} {err}");
    Ok(out)
}

/// Runs or creates a container with these options; returns its id.
pub fn make(machine: &Machine, verb: &[&str], options: &[&str], image: &str, line: &str) -> Result<String> {
    let words = [verb, &["-q", "--network", "host"], options, &[image, "sh", "-c", line]].concat();
    Ok(good(machine, &words)?.trim().to_owned())
}

/// The status of the container with that id, as `crisp ps -a` shows it.
pub fn status(machine: &Machine, id: &str) -> Result<String> {
    let format = "{{.ID}} {{.Status}}";
    let list = good(machine, &["ps", "-a", "--no-trunc", "--format", format])?;
    Ok(list.lines().find_map(|line| line.strip_prefix(id)).unwrap_or_default().trim().to_owned())
}

/// The number of starts that the container has counted in its own file.
pub fn starts(machine: &Machine, name: &str) -> Result<usize> {
    Ok(crisp(machine, &["exec", name, "cat", "/count"])?.1.lines().count())
}

pub async fn kill_and_start_server(machine: &mut Machine) -> Result<()> {
    machine.kill_server();
    machine.start_server().await
}

pub fn nothing_is_left(machine: &Machine) -> Result<()> {
    let (_, listed, _) = crisp(machine, &["ps", "-aq"])?;
    let (_, pods, _) = crisp(machine, &["pods", "-q"])?;
    assert!(listed.trim().is_empty() && pods.trim().is_empty(), "{listed} {pods}");
    assert_eq!(good(machine, &["up"])?.lines().count(), 1, "only the heading");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_container_stays_stopped_and_keeps_its_files_and_its_id() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let options = ["--name", "web", "--restart", "unless-stopped"];
    let id = make(&machine, &["run", "-d"], &options, &image, COUNTS)?;
    until(&machine, "does not begin", || Ok(starts(&machine, "web")? == 1)).await?;
    assert_eq!(good(&machine, &["stop", "web"])?, "web\n");
    assert!(status(&machine, &id)?.starts_with("Exited (3)"), "{}", status(&machine, &id)?);
    assert!(!good(&machine, &["ps", "-q"])?.contains(&id[..12]));
    assert!(good(&machine, &["up"])?.contains("Stopped"));
    tokio::time::sleep(SOON).await;
    assert!(status(&machine, &id)?.starts_with("Exited (3)"), "no policy starts it");
    good(&machine, &["stop", "web"])?;

    kill_and_start_server(&mut machine).await?;
    tokio::time::sleep(SOON).await;
    assert!(status(&machine, &id)?.starts_with("Exited (3)"), "nor does a server");
    assert!(good(&machine, &["up"])?.contains("Stopped"));
    good(&machine, &["start", &id[..12]])?;
    let now = status(&machine, &id)?;
    assert!(now.starts_with("Up"), "{now}");
    until(&machine, "lost its file", || Ok(starts(&machine, "web")? == 2)).await?;
    good(&machine, &["start", "web"])?;
    assert_eq!(starts(&machine, "web")?, 2, "it runs already");

    good(&machine, &["restart", "-t", "5", "web"])?;
    until(&machine, "is not started once more", || Ok(starts(&machine, "web")? == 3)).await?;
    assert!(status(&machine, &id)?.starts_with("Up"));
    // Its policy works again.
    good(&machine, &["kill", "web"])?;
    let is_new = || Ok(!status(&machine, &id)?.starts_with("Up") && starts(&machine, "web")? == 1);
    until(&machine, "its policy is forgotten", is_new).await?;
    good(&machine, &["stop", "web"])?;
    good(&machine, &["rm", "web"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn always_starts_with_the_server_and_other_policies_do_not() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let mut ids = Vec::new();
    for (name, policy) in [("always", "always"), ("never", "no"), ("failure", "on-failure")] {
        ids.push(make(&machine, &["run", "-d"], &["--name", name, "--restart", policy], &image, COUNTS)?);
        until(&machine, "does not begin", || Ok(starts(&machine, name)? == 1)).await?;
    }
    good(&machine, &["stop", "always", "never", "failure"])?;
    tokio::time::sleep(SOON).await;
    for id in &ids {
        assert!(status(&machine, id)?.starts_with("Exited (3)"), "{}", status(&machine, id)?);
    }
    kill_and_start_server(&mut machine).await?;
    until(&machine, "always is not started", || Ok(starts(&machine, "always")? == 2)).await?;
    assert!(status(&machine, &ids[0])?.starts_with("Up"));
    for (id, name) in ids.iter().zip(["always", "never", "failure"]).skip(1) {
        assert!(status(&machine, id)?.starts_with("Exited (3)"), "{name}: {}", status(&machine, id)?);
        good(&machine, &["start", name])?;
        until(&machine, name, || Ok(starts(&machine, name)? == 2)).await?;
    }
    good(&machine, &["rm", "-f", "always", "never", "failure"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_periods_are_kept_and_what_is_to_be_removed_goes_at_its_stop() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    let options = ["--name", "deaf", "--stop-timeout", "4", "--restart", "always"];
    let id = make(&machine, &["run", "-d"], &options, &image, deaf)?;
    let ready = || Ok(crisp(&machine, &["logs", "deaf"])?.1.contains("up"));
    until(&machine, "does not begin", ready).await?;
    let begun = Instant::now();
    good(&machine, &["stop", "deaf"])?;
    let passed = begun.elapsed();
    assert!(passed > Duration::from_millis(2900) && passed < Duration::from_secs(20), "{passed:?}");
    assert!(status(&machine, &id)?.starts_with("Exited (137)"), "{}", status(&machine, &id)?);
    good(&machine, &["start", "deaf"])?;
    let begun = Instant::now();
    good(&machine, &["stop", "-t", "0", "deaf"])?;
    assert!(begun.elapsed() < Duration::from_millis(2900), "{:?}", begun.elapsed());
    good(&machine, &["rm", "deaf"])?;

    make(&machine, &["run", "-d"], &["--name", "passing", "--rm"], &image, COUNTS)?;
    until(&machine, "does not begin", || Ok(starts(&machine, "passing")? == 1)).await?;
    good(&machine, &["restart", "passing"])?;
    let is_back = || Ok(starts(&machine, "passing")? == 2);
    until(&machine, "a restart is no end", is_back).await?;
    tokio::time::sleep(SOON).await;
    assert_eq!(starts(&machine, "passing")?, 2);
    good(&machine, &["stop", "passing"])?;
    let is_gone = || Ok(!good(&machine, &["up"])?.contains("passing"));
    until(&machine, "is not removed", is_gone).await?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_while_it_is_being_stopped_waits_for_its_end() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let deaf = "echo x >> /count; trap '' TERM; while :; do sleep 0.1; done";
    let id = make(&machine, &["run", "-d"], &["--name", "deaf"], &image, deaf)?;
    until(&machine, "does not begin", || Ok(starts(&machine, "deaf")? == 1)).await?;
    std::thread::scope(|scope| -> Result<()> {
        let stop = scope.spawn(|| crisp(&machine, &["stop", "-t", "3", "deaf"]).map(|(code, ..)| code).ok());
        std::thread::sleep(Duration::from_secs(1));
        good(&machine, &["start", "deaf"])?;
        assert_eq!(stop.join().expect("no panic"), Some(Some(0)));
        Ok(())
    })?;
    assert!(status(&machine, &id)?.starts_with("Up"), "{}", status(&machine, &id)?);
    let is_back = || Ok(starts(&machine, "deaf")? == 2);
    until(&machine, "has lost its file", is_back).await?;
    good(&machine, &["rm", "-f", "deaf"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_runs_anew_with_its_volumes() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let line = "echo x >> /data/x; cat /data/x; exit 4";
    let options = ["--name", "job", "-v", "data:/data"];
    make(&machine, &["run", "-d"], &options, &image, line)?;
    until(&machine, "does not end", || Ok(good(&machine, &["up"])?.contains("Failed (4)"))).await?;
    let (code, out, err) = crisp(&machine, &["start", "-a", "job"])?;
    assert_eq!((code, out.as_str()), (Some(4), "x\nx\n"), "{err}");
    until(&machine, "does not end", || Ok(good(&machine, &["up"])?.contains("Failed (4)"))).await?;
    good(&machine, &["stop", "job"])?;
    assert!(good(&machine, &["up"])?.contains("Failed (4)"), "it had ended before");
    good(&machine, &["rm", "job"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_container_waits_for_its_start() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let file = machine.folder().join("id");
    let options = ["--name", "later", "--restart", "always", "--cidfile", &file.display().to_string()];
    let id = make(&machine, &["create"], &options, &image, COUNTS)?;
    assert_eq!((id.len(), std::fs::read_to_string(&file)?), (64, id.clone()));
    assert_eq!(status(&machine, &id)?, "Created");
    let (code, _, err) = crisp(&machine, &["exec", "later", "true"])?;
    assert!(code != Some(0), "{err}");
    kill_and_start_server(&mut machine).await?;
    tokio::time::sleep(SOON).await;
    assert_eq!(status(&machine, &id)?, "Created", "no policy starts it");
    good(&machine, &["start", "later"])?;
    assert!(status(&machine, &id)?.starts_with("Up"), "{}", status(&machine, &id)?);
    until(&machine, "does not begin", || Ok(starts(&machine, "later")? == 1)).await?;
    good(&machine, &["rm", "-f", "later"])?;

    make(&machine, &["create"], &["--name", "once"], &image, "echo hello; exit 5")?;
    let (code, out, err) = crisp(&machine, &["start", "--attach", "once"])?;
    assert_eq!((code, out.as_str()), (Some(5), "hello\n"), "{err}");
    make(&machine, &["create"], &["--name", "unused"], &image, COUNTS)?;
    let (code, _, err) = crisp(&machine, &["create", "-q", "--name", "unused", &image])?;
    assert!(code == Some(125) && err.contains("unused already"), "{code:?} {err}");
    good(&machine, &["rm", "unused", "once"])?;
    let (code, out, err) = crisp(&machine, &["create", "-q", "--pull", "never", "nothing-of-this-name"])?;
    assert!(code == Some(125) && out.is_empty(), "{code:?} {err}");
    nothing_is_left(&machine)?;
    machine.close().await
}
