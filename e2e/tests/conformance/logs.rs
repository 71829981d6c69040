//! A container's log, in the format that kubelet reads.

use std::path::Path;

use crisp_e2e::Result;
use crisp_e2e::scenario::parse_log;
use k8s_cri::v1::ReopenContainerLogRequest;

use crate::cri::{Cri, log, unknown};

promises! {
    a_line_has_time_stream_and_tag: Kubernetes, ["ContainerConfig.log_path"],
        "Each line of a log has an RFC 3339 time in UTC with nanoseconds, the stream, the tag F or P, and the text";
    a_log_is_where_it_was_asked_for: Cri, ["PodSandboxConfig.log_directory", "ContainerConfig.log_path",
        "ContainerStatus.log_path"],
        "A log is at the log path below the pod's log directory, and the status has the whole path";
    long_lines_are_partial: Kubernetes, ["ContainerConfig.log_path"],
        "A long line is written in parts with the tag P, the last one with F, and nothing of it is lost";
    lines_are_exact: Kubernetes, ["ContainerConfig.log_path"],
        "Empty lines, spaces, carriage returns and a last line without a newline stay as they are",
        containerd: "a carriage return is lost";
    the_streams_of_a_terminal_are_one: Kubernetes, ["ContainerConfig.tty"],
        "With a tty, errors are in the log as output";
    a_log_is_reopened_after_rotation: Cri, ["ReopenContainerLog", "ReopenContainerLogRequest.container_id"],
        "After a log was renamed and reopened, the output goes on in a new file, and no line is lost or twice";
    a_log_of_an_exited_container_is_not_made_in_an_error: Cri, ["ReopenContainerLog"],
        "Reopening the log of an exited container makes a new file or is an error that makes none";
    reopening_an_unknown_log_is_an_error: Cri, ["ReopenContainerLog"],
        "Reopening the log of a container that does not exist is an error";
    a_log_outlives_its_container: Kubernetes, ["RemovePodSandbox", "RemoveContainer"],
        "The log of a removed container and pod is kubelet's to delete";
    a_container_runs_without_a_log: Cri, ["PodSandboxConfig.log_directory"],
        "Without a log directory a container runs and its output is dropped";
}

async fn a_line_has_time_stream_and_tag(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("echo out; sleep 0.1; echo err >&2");
    cri.end(&pod, &config).await?;
    let text = log(&pod, &config)?;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(4, ' ').collect()).collect();
    let [first, second] = &lines[..] else { panic!("{text}") };
    assert_eq!((&first[1..], &second[1..]), (&["stdout", "F", "out"][..], &["stderr", "F", "err"][..]));
    for line in [first, second] {
        let (date, fraction) = line[0].split_once('.').ok_or("no fraction of a second")?;
        let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        assert_eq!((date.len(), date.as_bytes()[10], fraction.len() - zone.len()), (19, b'T', 9), "{line:?}");
        assert!(["Z", "+00:00"].contains(&zone), "{line:?}");
    }
    assert!(first[0] < second[0], "{text}");
    Ok(())
}

async fn a_log_is_where_it_was_asked_for(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let mut config = cri.shell("echo here");
    config.log_path = "some/7.log".into();
    // kubelet makes the container's folder.
    std::fs::create_dir_all(Path::new(&pod.config.log_directory).join("some"))?;
    let status = cri.end(&pod, &config).await?;
    assert_eq!(Path::new(&status.log_path), Path::new(&pod.config.log_directory).join("some/7.log"));
    assert!(std::fs::read_to_string(&status.log_path)?.ends_with(" stdout F here\n"));
    Ok(())
}

async fn long_lines_are_partial(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("head -c 100000 /dev/zero | tr '\\0' x; echo; echo next");
    cri.end(&pod, &config).await?;
    let text = log(&pod, &config)?;
    let parts: Vec<(&str, usize)> = text
        .lines()
        .filter_map(|line| line.split_once(" stdout ")?.1.split_once(' '))
        .map(|(tag, text)| (tag, text.len()))
        .collect();
    let (next, parts) = parts.split_last().ok_or("an empty log")?;
    let (last, first) = parts.split_last().ok_or("one line alone")?;
    assert_eq!((next, last.0), (&("F", 4), "F"));
    assert!(first.len() > 1 && first.iter().all(|(tag, _)| *tag == "P"), "{parts:?}");
    assert_eq!(parts.iter().map(|(_, length)| length).sum::<usize>(), 100_000);
    Ok(())
}

async fn lines_are_exact(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("printf '\\n\\n  two spaces \\r\\n\\ttab\\nlast'");
    cri.end(&pod, &config).await?;
    let text = log(&pod, &config)?;
    let lines: Vec<&str> =
        text.trim_end_matches('\n').split('\n').filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let plain: Vec<&str> = lines.iter().map(|line| line.trim_end_matches('\r')).collect();
    assert_eq!(plain, ["", "", "  two spaces ", "\ttab", "last"]);
    assert!(lines[2].ends_with('\r'), "a carriage return is lost");
    Ok(())
}

async fn the_streams_of_a_terminal_are_one(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let mut config = cri.shell("echo out; echo err >&2");
    config.tty = true;
    cri.end(&pod, &config).await?;
    let text = log(&pod, &config)?;
    assert!(text.contains(" stdout F out") && text.contains(" stdout F err"), "{text}");
    assert!(!text.contains(" stderr "), "{text}");
    Ok(())
}

async fn reopen(cri: &mut Cri, container: &str) -> Result<(), tonic::Status> {
    let request = ReopenContainerLogRequest { container_id: container.into() };
    cri.client.runtime.reopen_container_log(request).await.map(drop)
}

async fn a_log_is_reopened_after_rotation(cri: &mut Cri) -> Result<()> {
    let config =
        cri.shell("i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo $i; done; echo over; exec sleep 1000");
    let (pod, id) = cri.running_as(&config).await?;
    let file = Path::new(&pod.config.log_directory).join(&config.log_path);
    let mut all = String::new();
    for round in 0..3 {
        let old = file.with_extension(format!("log.{round}"));
        std::fs::rename(&file, &old)?;
        reopen(cri, &id).await?;
        assert!(file.exists(), "the new log is there when the call returns");
        all.push_str(&parse_log(&std::fs::read_to_string(&old)?)?);
    }
    for _ in 0..100 {
        if log(&pod, &config)?.ends_with("over\n") || all.ends_with("over\n") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    all.push_str(&parse_log(&log(&pod, &config)?)?);
    let expected: String = (1..=2000).map(|i| format!("{i}\n")).chain(["over\n".to_owned()]).collect();
    assert!(all == expected, "{} of {} bytes", all.len(), expected.len());
    Ok(())
}

async fn a_log_of_an_exited_container_is_not_made_in_an_error(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("echo over");
    let id = cri.end(&pod, &config).await?.id;
    let file = Path::new(&pod.config.log_directory).join(&config.log_path);
    std::fs::rename(&file, file.with_extension("old"))?;
    let made = reopen(cri, &id).await.is_ok();
    assert_eq!(file.exists(), made);
    Ok(())
}

async fn reopening_an_unknown_log_is_an_error(cri: &mut Cri) -> Result<()> {
    assert!(reopen(cri, &unknown()).await.is_err());
    Ok(())
}

async fn a_log_outlives_its_container(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("echo kept");
    let id = cri.end(&pod, &config).await?.id;
    cri.remove_container(&id).await?;
    cri.remove_pod(&pod.id).await?;
    assert!(log(&pod, &config)?.ends_with("kept\n"));
    Ok(())
}

async fn a_container_runs_without_a_log(cri: &mut Cri) -> Result<()> {
    let mut config = cri.sandbox();
    config.log_directory.clear();
    let pod = cri.run(&config).await?;
    let mut config = cri.shell("head -c 1000000 /dev/zero; exit 3");
    config.log_path.clear();
    assert_eq!(cri.end(&pod, &config).await?.exit_code, 3);
    Ok(())
}
