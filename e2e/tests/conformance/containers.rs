//! The configuration of a container: command, environment, folder, labels, image.

use crisp_e2e::image::Built;
use crisp_e2e::{Image, Result};
use k8s_cri::v1::{ContainerConfig, ContainerStatusRequest, ImageSpec, ImageStatusRequest, KeyValue};
use serde_json::json;

use crate::cri::Cri;

promises! {
    command_and_args_follow_the_table: Kubernetes, ["ContainerConfig.command", "ContainerConfig.args"],
        "A command replaces the image's entrypoint and arguments, arguments alone replace the image's arguments";
    envs_are_exact: Kubernetes, ["ContainerConfig.envs", "KeyValue.key", "KeyValue.value"],
        "Environment variables come as they are, with spaces, newlines and equals signs, and replace the image's";
    the_images_environment_is_there: Kubernetes, ["ContainerConfig.image"],
        "The image's environment variables are set";
    the_working_folder_is_the_containers: Kubernetes, ["ContainerConfig.working_dir"],
        "The command runs in the container's working folder, which is made where it is missing";
    the_images_working_folder_is_the_default: Kubernetes, ["ContainerConfig.working_dir"],
        "Without a working folder the image's is used";
    a_containers_status_is_what_was_asked_for: Cri, ["ContainerStatus", "ContainerStatusRequest.container_id",
        "ContainerStatusResponse.status", "ContainerStatus.id", "ContainerStatus.metadata",
        "ContainerStatus.labels", "ContainerStatus.annotations", "ContainerConfig.labels",
        "ContainerConfig.annotations"],
        "A container's status has its metadata, labels and annotations unaltered";
    a_containers_status_has_info_when_it_is_verbose: Cri, ["ContainerStatusRequest.verbose",
        "ContainerStatusResponse.info"],
        "A container's status has info when it is asked for, and else none";
    a_containers_status_names_its_image: Cri, ["ContainerStatus.image", "ContainerStatus.image_ref",
        "ContainerStatus.image_id", "ImageSpec.image"],
        "A container's status has the image's reference, its digested reference and its id on the node";
    stdin_is_empty_unless_asked_for: Kubernetes, ["ContainerConfig.stdin"],
        "A container without stdin reads the end of its input at once";
    a_terminal_is_one_when_asked_for: Kubernetes, ["ContainerConfig.tty"],
        "A container with a tty has a terminal for input, output and errors; another has none";
    a_root_file_system_is_the_containers_own: Kubernetes, ["ContainerConfig.image"],
        "What a container writes is not in another container of the same image";
    system_folders_are_mounted: Kubernetes, ["CreateContainer"],
        "A container has /proc, /sys, /dev with the usual devices, /dev/shm and /dev/pts";
}

fn with_entrypoint() -> Built {
    Image::busybox().config("Entrypoint", json!(["echo", "entry"])).config("Cmd", json!(["cmd"])).build()
}

async fn command_and_args_follow_the_table(cri: &mut Cri) -> Result<()> {
    let image = cri.image(&with_entrypoint()).await?;
    let pod = cri.pod().await?;
    for (command, args, printed) in [
        (&[][..], &[][..], "entry cmd\n"),
        (&[], &["own"], "entry own\n"),
        (&["echo", "other"], &[], "other\n"),
        (&["echo", "other"], &["own"], "other own\n"),
    ] {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let mut config = cri.shell("");
        config.image.get_or_insert_default().image.clone_from(&image);
        (config.command, config.args) = (words(command), words(args));
        assert_eq!(cri.output_in(&pod, &config).await?, printed, "{command:?} {args:?}");
    }
    Ok(())
}

fn envs(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    pairs.iter().map(|&(key, value)| KeyValue { key: key.into(), value: value.into() }).collect()
}

async fn envs_are_exact(cri: &mut Cri) -> Result<()> {
    let image = Image::busybox().config("Env", json!(["PATH=/bin", "KIND=image"])).build();
    let image = cri.image(&image).await?;
    let mut config =
        cri.shell("printf '%s|%s|%s|%s' \"$PLAIN\" \"$LINES\" \"$EMPTY\" \"$KIND\"; env | grep -c ^KIND");
    config.image.get_or_insert_default().image = image;
    config.envs = envs(&[("PLAIN", " a=b $HOME "), ("LINES", "1\n2"), ("EMPTY", ""), ("KIND", "container")]);
    assert_eq!(cri.output(&config).await?, " a=b $HOME |1\n2||container1\n");
    Ok(())
}

async fn the_images_environment_is_there(cri: &mut Cri) -> Result<()> {
    let image = Image::busybox().config("Env", json!(["PATH=/bin", "FROM=the image"])).build();
    let image = cri.image(&image).await?;
    let mut config = cri.shell("echo $FROM $PATH");
    config.image.get_or_insert_default().image = image;
    assert_eq!(cri.output(&config).await?, "the image /bin\n");
    Ok(())
}

async fn the_working_folder_is_the_containers(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for folder in ["/etc", "/made/for/it"] {
        let mut config = cri.shell("pwd");
        config.working_dir = folder.into();
        assert_eq!(cri.output_in(&pod, &config).await?, format!("{folder}\n"));
    }
    Ok(())
}

async fn the_images_working_folder_is_the_default(cri: &mut Cri) -> Result<()> {
    let image = cri.image(&Image::busybox().config("WorkingDir", json!("/etc")).build()).await?;
    let mut config = cri.shell("pwd");
    config.image.get_or_insert_default().image = image;
    assert_eq!(cri.output(&config).await?, "/etc\n");
    Ok(())
}

async fn a_containers_status_is_what_was_asked_for(cri: &mut Cri) -> Result<()> {
    let mut config = cri.shell("exec sleep 1000");
    config.labels.insert("io.kubernetes.container.name".into(), "a name".into());
    config.annotations.insert("example.org/text".into(), "lines\nand \"quotes\" \u{1f980}".into());
    config.metadata.get_or_insert_default().attempt = 4;
    let (_pod, id) = cri.running_as(&config).await?;
    let status = cri.client.status(&id).await?;
    assert_eq!((&status.id, &status.metadata), (&id, &config.metadata));
    assert_eq!((&status.labels, &status.annotations), (&config.labels, &config.annotations));
    Ok(())
}

async fn a_containers_status_has_info_when_it_is_verbose(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    for verbose in [false, true] {
        let request = ContainerStatusRequest { container_id: id.clone(), verbose };
        let info = cri.client.runtime.container_status(request).await?.into_inner().info;
        assert_eq!(info.is_empty(), !verbose, "{info:?}");
    }
    Ok(())
}

async fn a_containers_status_names_its_image(cri: &mut Cri) -> Result<()> {
    let reference = cri.image(&with_entrypoint()).await?;
    let spec = ImageSpec { image: reference.clone(), ..Default::default() };
    let request = ImageStatusRequest { image: Some(spec.clone()), verbose: false };
    let image = cri.client.images.image_status(request).await?.into_inner().image.ok_or("no image")?;
    let config = ContainerConfig { image: Some(spec), ..cri.shell("true") };
    let pod = cri.pod().await?;
    let id = cri.create(&pod, &config).await?;
    let status = cri.client.status(&id).await?;
    assert_eq!(status.image.map(|image| image.image), Some(reference));
    assert_eq!(status.image_id, image.id);
    assert!(image.repo_digests.contains(&status.image_ref), "{} of {image:?}", status.image_ref);
    Ok(())
}

async fn stdin_is_empty_unless_asked_for(cri: &mut Cri) -> Result<()> {
    let config = cri.shell("cat; echo over");
    assert_eq!(cri.output(&config).await?, "over\n");
    Ok(())
}

async fn a_terminal_is_one_when_asked_for(cri: &mut Cri) -> Result<()> {
    let line = "for n in 0 1 2; do test -t $n && echo $n; done; true";
    let pod = cri.pod().await?;
    let mut config = cri.shell(line);
    assert_eq!(cri.output_in(&pod, &config).await?, "");
    config = cri.shell(line);
    config.tty = true;
    config.stdin = true;
    assert_eq!(cri.output_in(&pod, &config).await?.replace('\r', ""), "0\n1\n2\n");
    Ok(())
}

async fn a_root_file_system_is_the_containers_own(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for _ in 0..2 {
        let config = cri.shell("exec sleep 1000");
        let id = cri.launch(&pod, &config).await?;
        let line = "test ! -e /written && rm /etc/group && echo mine > /written && cat /written";
        assert_eq!(cri.sh(&id, line).await?, "mine\n");
    }
    Ok(())
}

async fn system_folders_are_mounted(cri: &mut Cri) -> Result<()> {
    let line = "for d in null zero full random urandom tty; do test -c /dev/$d || echo $d; done; \
        for d in /proc /sys /dev /dev/shm /dev/pts /dev/mqueue; do grep -q \" $d \" /proc/mounts || echo $d; done; \
        test -e /proc/self/status && test -d /sys/class && head -c 3 /dev/zero | wc -c";
    let config = cri.shell(line);
    assert_eq!(cri.output(&config).await?, "3\n");
    Ok(())
}
