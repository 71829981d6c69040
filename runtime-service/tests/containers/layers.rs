//! Layers stay below a container that runs on them, whatever the server that starts can read.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::lab::{self, Lab, shell};
use crate::restart::while_no_server_runs;

const IMAGE: &str = "registry.test/five:1";

struct Running {
    pod: String,
    id: String,
    /// The trees of the layers, bottom first.
    trees: Vec<PathBuf>,
    /// The container's record.
    record: PathBuf,
}

/// A container of an image of five layers.
async fn run(lab: &Lab) -> Running {
    let mut layers = vec![lab::layer()];
    layers.extend((1..5).map(|number| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(5);
        tar.append_data(&mut header, format!("file{number}"), &b"text\n"[..]).unwrap();
        tar.into_inner().unwrap()
    }));
    let diffs = lab::add_image_of(&lab.images, IMAGE, &layers, r#""Env":["PATH=/bin"]"#);
    let root = lab.dir.path().join("root");
    let pod = lab.pod("five").await;
    let mut config = shell("app", "sleep 1000");
    config.image.as_mut().unwrap().image = IMAGE.into();
    let id = lab.run(&pod, config).await;
    let trees: Vec<PathBuf> =
        diffs.iter().map(|diff| root.join("layers").join(diff.hex()).join("fs")).collect();
    trees.iter().for_each(|tree| age(&tree.with_file_name("layer.json")));
    let record = root.join("containers").join(&id).join("container.json");
    lab.recorded_as_running(&id).await;
    Running { pod, id, trees, record }
}

/// Makes a layer one of an earlier boot, which a server that starts deletes when nothing needs it.
fn age(record: &Path) {
    let text = fs::read_to_string(record).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(record, text.replace(boot.trim(), "an-earlier-boot")).unwrap();
}

/// Removes unused images, as a server and a kubelet do.
async fn collect(lab: &Lab) {
    lab.images.start_collection().await.unwrap();
    if let Ok(image) = lab.images.store().find(IMAGE) {
        lab.images.store().remove_image(&image.id).unwrap();
    }
    lab.images.store().collect_unused().unwrap();
}

async fn until_gone(lab: &Lab, tree: &Path) {
    let begun = Instant::now();
    while tree.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} stays", tree.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
        lab.images.store().collect_unused().unwrap();
    }
}

#[test]
fn those_that_are_there_stay_where_another_one_is_damaged() {
    while_no_server_runs(
        async |lab| run(lab).await,
        |running| fs::write(running.trees[2].with_file_name("layer.json"), "").unwrap(),
        async |lab, Running { pod, id, trees, .. }| {
            collect(lab).await;
            for tree in [&trees[0], &trees[1], &trees[3], &trees[4]] {
                assert!(tree.exists(), "{} is gone below a container", tree.display());
            }
            assert_eq!(lab.sh(&id, "cat /file1 /file2 /file4").await, "text\ntext\ntext\n");
            lab.remove(&id).await.unwrap();
            until_gone(lab, &trees[1]).await;
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn all_stay_while_the_disk_refuses_a_containers_record() {
    while_no_server_runs(
        async |lab| run(lab).await,
        |Running { record, .. }| {
            fs::rename(record, record.with_extension("kept")).unwrap();
            // Reading a folder is an error that says nothing about the record.
            fs::create_dir(record).unwrap();
        },
        async |lab, Running { pod, id, trees, record }| {
            assert!(lab.status(&id).await.is_err(), "its record cannot be read");
            collect(lab).await;
            assert!(trees.iter().all(|tree| tree.exists()), "a layer is gone below a container");
            fs::remove_dir(&record).unwrap();
            fs::rename(record.with_extension("kept"), &record).unwrap();
            let begun = Instant::now();
            while lab.status(&id).await.is_err() {
                assert!(begun.elapsed() < Duration::from_secs(30), "it is not listed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(lab.sh(&id, "cat /file1").await, "text\n");
            lab.remove(&id).await.unwrap();
            until_gone(lab, &trees[1]).await;
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn those_of_a_container_that_was_set_aside_stay_until_its_pod_is_stopped() {
    let damages: [fn(&str) -> String; 2] =
        [|_| "{".to_owned(), |record| record.replace("\"version\":1", "\"version\":2")];
    for damage in damages {
        while_no_server_runs(
            async |lab| run(lab).await,
            |Running { record, .. }| {
                let text = fs::read_to_string(record).unwrap();
                fs::write(record, damage(&text)).unwrap();
            },
            async |lab, Running { pod, id, trees, .. }| {
                assert!(lab.status(&id).await.is_err(), "its record is of no use");
                collect(lab).await;
                assert!(trees.iter().all(|tree| tree.exists()), "a layer is gone below a container");
                lab.remove_pod(&pod).await;
                until_gone(lab, &trees[1]).await;
            },
        );
    }
}

/// Each image has its own directories below a layer that both share.
#[tokio::test]
async fn directories_that_a_shared_layer_leaves_out_are_those_of_each_image() {
    let lab = crate::lab::lab!();
    let archive = |path: &str, kind: tar::EntryType, mode: u32, owner: u64| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(0);
        tar.append_data(&mut header, path, std::io::empty()).unwrap();
        tar.into_inner().unwrap()
    };
    let shared = archive("opt/app/run", tar::EntryType::Regular, 0o755, 0);
    let pod = lab.pod("shared").await;
    for (name, mode, owner) in [("first", 0o777, 1000), ("second", 0o755, 0)] {
        let base = archive("opt", tar::EntryType::Directory, mode, owner);
        let reference = format!("registry.test/{name}:1");
        let layers = [lab::layer(), base, shared.clone()];
        lab::add_image_of(&lab.images, &reference, &layers, r#""Env":["PATH=/bin"]"#);
        let mut config = shell(name, "sleep 1000");
        config.image.as_mut().unwrap().image = reference;
        let id = lab.run(&pod, config).await;
        let shown = lab.sh(&id, "stat -c '%a %u %g' /opt /opt/app; ls /opt/app").await;
        assert_eq!(shown, format!("{mode:o} {owner} {owner}\n755 0 0\nrun\n"));
    }
    lab.remove_pod(&pod).await;
}
