//! `crisp run -d IMAGE` with a server, with docker's options.

use std::time::{Duration, Instant};

use crisp_e2e::{Image, Machine, Result, Setup, needs};

pub async fn machine() -> Result<(Machine, String)> {
    let machine = Machine::start_with(Setup::default()).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    Ok((machine, image))
}

/// Runs a command; returns the exit code and both outputs.
pub fn crisp(machine: &Machine, args: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = machine.crisp(args)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

pub async fn until(machine: &Machine, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        if begun.elapsed() > Duration::from_secs(60) {
            let (_, list, _) = crisp(machine, &["ps", "-a"])?;
            return Err(format!("{what}:\n{list}\n{}", machine.log()).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

pub const LOOP: &str = "echo up; trap 'exit 3' TERM; while :; do sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_on_by_its_name_until_it_is_removed() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let file = machine.folder().join("id");
    let cidfile = file.display().to_string();
    let words = [
        "run",
        "-dq",
        "--name",
        "web",
        "--restart",
        "always",
        "--network",
        "host",
        "--cidfile",
        &cidfile,
        &image,
    ];
    let (code, out, err) = crisp(&machine, &[&words[..], &["sh", "-c", LOOP]].concat())?;
    assert_eq!(code, Some(0), "{out} {err}");
    let id = out.trim().to_owned();
    assert_eq!(
        (id.len(), std::fs::read_to_string(&file)?),
        (64, id.clone()),
        "only the id is printed: {out}"
    );
    let (_, out, _) = crisp(&machine, &["ps", "-q", "--no-trunc"])?;
    assert!(out.contains(&id), "{out}");
    let (code, _, err) =
        crisp(&machine, &["run", "-dq", "--name", "web", "--network", "host", &image, "true"])?;
    assert!(code == Some(125) && err.contains("web already"), "{code:?} {err}");
    machine.kill_server();
    machine.start_server().await?;
    let (code, out, err) = crisp(&machine, &["exec", "web", "echo", "inside"])?;
    assert_eq!((code, out.as_str()), (Some(0), "inside\n"), "{err}");
    let (code, _, err) = crisp(&machine, &["rm", "web"])?;
    assert!(code == Some(1) && err.contains("it is running"), "{err}");
    let (code, _, err) = crisp(&machine, &["rm", "-f", "web"])?;
    assert_eq!(code, Some(0), "{err}");
    let once = ["run", "-dq", "--name", "web", "--stop-timeout", "30", "--network", "host", &image];
    let (code, out, err) = crisp(&machine, &[&once[..], &["sh", "-c", LOOP]].concat())?;
    assert_eq!(code, Some(0), "{out} {err}");
    let id = out.trim().to_owned();
    let (code, _, err) = crisp(&machine, &["stop", "web"])?;
    assert_eq!(code, Some(0), "{err}");
    let (_, out, _) = crisp(&machine, &["up"])?;
    assert!(out.contains("Stopped"), "{out}");
    let (_, out, _) = crisp(&machine, &["ps", "-aq", "--no-trunc"])?;
    assert!(out.contains(&id), "it stays to be looked at: {out}");
    let (code, _, err) = crisp(&machine, &["rm", "web"])?;
    assert_eq!(code, Some(0), "{err}");
    let (_, out, _) = crisp(&machine, &["ps", "-aq"])?;
    assert!(out.trim().is_empty() && !crisp(&machine, &["up"])?.1.contains("web"), "{out}");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_leaves_nothing_and_has_dockers_code() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    for (words, wanted) in [
        (vec!["--restart", "always", &image, "no-such-program"], 127),
        (vec![&image, "/etc"], 126),
        (vec!["--pull", "never", "nothing-of-this-name"], 125),
        (vec!["--device", "/dev/no-such-device", &image, "true"], 125),
        (vec!["--log-opt", "max-size=1m", &image], 125),
    ] {
        let (code, out, err) = crisp(&machine, &[&["run", "-dq", "--network", "host"], &words[..]].concat())?;
        assert!(
            code == Some(wanted) && out.is_empty() && err.starts_with("crisp: "),
            "{words:?} {code:?} {out} {err}"
        );
        assert!(crisp(&machine, &["ps", "-aq"])?.1.trim().is_empty(), "{words:?}");
    }
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ended_stays_unless_it_was_to_be_removed() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let run = |more: &[&str], line: &str| {
        let words = [&["run", "-dq", "--network", "host"], more, &[&image, "sh", "-c", line]].concat();
        crisp(&machine, &words)
    };
    let (code, out, err) = run(&["--name", "job"], "echo result; exit 4")?;
    assert_eq!((code, out.trim().len()), (Some(0), 64), "a failure after the start is not one of run: {err}");
    until(&machine, "it does not end", || Ok(crisp(&machine, &["up"])?.1.contains("Failed (4)"))).await?;
    assert_eq!(crisp(&machine, &["logs", "job"])?.1, "result\n");
    let (code, _, err) = run(&["--name", "passing", "--rm"], "sleep 1")?;
    assert_eq!(code, Some(0), "{err}");
    until(&machine, "it is not removed", || Ok(!crisp(&machine, &["up"])?.1.contains("passing"))).await?;
    let (code, _, err) = crisp(&machine, &["rm", "-f", "job"])?;
    assert_eq!(code, Some(0), "{err}");
    assert!(crisp(&machine, &["ps", "-aq"])?.1.trim().is_empty());
    machine.close().await
}
