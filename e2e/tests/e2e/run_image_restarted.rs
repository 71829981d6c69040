//! Stops and restarts of `crisp run -d IMAGE` that a server's end or another command interrupts, and starts that are
//! over at once.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crisp_e2e::machine::crisp as program;
use crisp_e2e::{Machine, Result, needs};

use crate::run_image_detached::{crisp, machine, until};
use crate::run_image_stopped::{COUNTS, good, kill_and_start_server, make, nothing_is_left, starts, status};

/// Counts its starts in a file of the container, and does not end by its stop signal.
const DEAF: &str = "echo x >> /count; trap '' TERM; while :; do sleep 0.1; done";
/// Longer than a stop signal needs to arrive.
const SHORT: Duration = Duration::from_secs(1);

/// A command that runs beside the test.
fn beside(machine: &Machine, args: &[&str]) -> Result<Child> {
    let mut command = Command::new(program());
    command.arg("--listen").arg(format!("unix://{}", machine.socket().display())).args(args);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_goes_on_with_a_stop_and_with_a_restart() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let id = make(&machine, &["run", "-d"], &["--name", "deaf", "--stop-timeout", "600"], &image, DEAF)?;
    until(&machine, "does not begin", || Ok(starts(&machine, "deaf")? == 1)).await?;
    let mut stop = beside(&machine, &["stop", "-t", "4", "deaf"])?;
    tokio::time::sleep(SHORT).await;
    kill_and_start_server(&mut machine).await?;
    assert!(!stop.wait()?.success(), "its server was killed");
    until(&machine, "its own grace period counts", || Ok(status(&machine, &id)?.starts_with("Exited (137)")))
        .await?;
    good(&machine, &["start", "deaf"])?;
    until(&machine, "is not started", || Ok(starts(&machine, "deaf")? == 2)).await?;

    let mut restart = beside(&machine, &["restart", "-t", "4", "deaf"])?;
    tokio::time::sleep(SHORT).await;
    kill_and_start_server(&mut machine).await?;
    assert!(!restart.wait()?.success(), "its server was killed");
    until(&machine, "stays stopped", || Ok(starts(&machine, "deaf")? == 3)).await?;
    assert!(status(&machine, &id)?.starts_with("Up"), "{}", status(&machine, &id)?);
    good(&machine, &["rm", "-f", "deaf"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stop_can_only_shorten_the_grace_period() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let id = make(&machine, &["run", "-d"], &["--name", "deaf"], &image, DEAF)?;
    until(&machine, "does not begin", || Ok(starts(&machine, "deaf")? == 1)).await?;
    let begun = Instant::now();
    let mut long = beside(&machine, &["stop", "-t", "600", "deaf"])?;
    tokio::time::sleep(SHORT).await;
    good(&machine, &["stop", "-t", "2", "deaf"])?;
    let passed = begun.elapsed();
    assert!(passed > Duration::from_millis(2900) && passed < Duration::from_secs(60), "{passed:?}");
    assert!(long.wait()?.success());
    assert!(status(&machine, &id)?.starts_with("Exited (137)"), "{}", status(&machine, &id)?);
    // The latest request decides what follows.
    good(&machine, &["start", "deaf"])?;
    let mut restart = beside(&machine, &["restart", "-t", "600", "deaf"])?;
    tokio::time::sleep(SHORT).await;
    good(&machine, &["stop", "-t", "1", "deaf"])?;
    assert!(!restart.wait()?.success(), "it is stopped");
    assert!(status(&machine, &id)?.starts_with("Exited (137)"), "{}", status(&machine, &id)?);
    good(&machine, &["rm", "deaf"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_ends_the_delay_before_the_next_try() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let file = machine.folder().join("count");
    std::fs::write(&file, "")?;
    let volume = format!("{}:/count", file.display());
    let options = ["--name", "failing", "--restart", "always", "-v", &volume];
    make(&machine, &["run", "-d"], &options, &image, "echo x >> /count; exit 3")?;
    let count = || -> Result<usize> { Ok(std::fs::read_to_string(&file)?.lines().count()) };
    until(&machine, "is not started again", || Ok(count()? == 2)).await?;
    until(&machine, "does not end", || Ok(good(&machine, &["ps", "-q"])?.is_empty())).await?;
    // The delay is ten seconds here.
    let begun = Instant::now();
    good(&machine, &["start", "failing"])?;
    until(&machine, "is not started now", || Ok(count()? >= 3)).await?;
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    good(&machine, &["rm", "-f", "failing"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_and_the_code_of_one_that_is_removed_at_its_end_are_seen() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    for number in 0..5 {
        let options = ["--name", "quick", "--rm"];
        make(&machine, &["create"], &options, &image, "echo hello; exit 5")?;
        let (code, out, err) = crisp(&machine, &["start", "-a", "quick"])?;
        assert_eq!((code, out.as_str()), (Some(5), "hello\n"), "{number}: {err}");
        let is_gone = || Ok(!good(&machine, &["up"])?.contains("quick"));
        until(&machine, "is not removed", is_gone).await?;
    }
    make(&machine, &["create"], &["--name", "quick", "--rm"], &image, "exec no-such-program")?;
    let (code, _, err) = crisp(&machine, &["start", "-a", "quick"])?;
    assert_eq!(code, Some(127), "{err}");
    let is_gone = || Ok(!good(&machine, &["up"])?.contains("quick"));
    until(&machine, "is not removed", is_gone).await?;
    nothing_is_left(&machine)?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_removes_what_was_stopped_was_created_or_has_ended() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let stopped = make(&machine, &["run", "-d"], &["--name", "stopped", "--label", "a=1"], &image, COUNTS)?;
    good(&machine, &["stop", "stopped"])?;
    let created = make(&machine, &["create"], &["--name", "created"], &image, COUNTS)?;
    let ended = make(&machine, &["run", "-d"], &["--name", "ended"], &image, "exit 3")?;
    until(&machine, "does not end", || Ok(good(&machine, &["up"])?.contains("Failed (3)"))).await?;
    let running = make(&machine, &["run", "-d"], &["--name", "running"], &image, COUNTS)?;
    let pruned = good(&machine, &["container", "prune", "-f", "--filter", "label=a=1"])?;
    assert_eq!(pruned, format!("{stopped}\n"));
    let pruned = good(&machine, &["container", "prune", "-f"])?;
    assert!(pruned.lines().count() == 2 && pruned.contains(&created) && pruned.contains(&ended), "{pruned}");
    assert_eq!(good(&machine, &["ps", "-aq", "--no-trunc"])?, format!("{running}\n"));
    good(&machine, &["rm", "-f", "running"])?;
    nothing_is_left(&machine)?;
    machine.close().await
}
