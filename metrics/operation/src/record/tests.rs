//! Records on a real file system.

use rustix::fs::inotify;

use super::*;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sample {
    name: String,
    #[serde(default)]
    added: Option<u32>,
}

impl Record for Sample {
    const KIND: &'static str = "sample";
    const VERSION: u32 = 2;
}

#[test]
fn what_is_written_is_read_and_nothing_is_left_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    for (name, durability) in [("a", Durability::Process), ("b", Durability::PowerCut)] {
        let sample = Sample { name: name.to_owned(), added: Some(1) };
        write(&path, &sample, durability).unwrap();
        assert_eq!(read::<Sample>(&path).unwrap(), sample);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn older_versions_and_added_fields_are_read_newer_versions_are_not() {
    let path = Path::new("x.json");
    let old = parse::<Sample>(path, br#"{"version":1,"name":"a","later":{"b":1}}"#).unwrap();
    assert_eq!(old, Sample { name: "a".to_owned(), added: None });
    let newer = parse::<Sample>(path, br#"{"version":3,"name":"a"}"#).unwrap_err();
    assert_eq!(newer.to_string(), "x.json: sample of version 3, this server reads up to 2");
    assert!(matches!(parse::<Sample>(path, br#"{"version":1,"na"#), Err(RecordError::Damaged { .. })));
    assert!(read::<Sample>(Path::new("/nonexistent/x.json")).unwrap_err().is_missing());
}

#[test]
fn a_failed_write_leaves_the_old_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    write(&path, &Sample::default(), Durability::Process).unwrap();
    // A folder in the place of the temporary file makes the write fail, as a full disk would.
    fs::create_dir(folder.path().join("x.json.new")).unwrap();
    let next = Sample { name: "next".to_owned(), added: None };
    assert!(write(&path, &next, Durability::Process).is_err());
    assert_eq!(read::<Sample>(&path).unwrap(), Sample::default());
}

/// A server that is killed between its exchange of the two files and the deletion leaves the old content,
/// and one that is killed while it writes a part of the new one.
#[test]
fn what_a_killed_server_left_beside_a_record_is_never_read_and_goes_with_the_next_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    let sample = |name: &str| Sample { name: name.to_owned(), added: None };
    write(&path, &sample("old"), Durability::Process).unwrap();
    let old = fs::read(&path).unwrap();
    write(&path, &sample("new"), Durability::Process).unwrap();
    for left in [&old[..], &old[..5], b""] {
        fs::write(folder.path().join("x.json.new"), left).unwrap();
        assert_eq!(read::<Sample>(&path).unwrap(), sample("new"));
    }
    write(&path, &sample("newest"), Durability::Process).unwrap();
    assert_eq!(read::<Sample>(&path).unwrap(), sample("newest"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_earlier_file_is_not_renamed_over_unless_it_must_be_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (path, kept) = (folder.path().join("x.json"), folder.path().join("kept"));
    write(&path, &Sample::default(), Durability::Process).unwrap();
    fs::hard_link(&path, &kept).unwrap();
    let changed = |path: &Path| path.metadata().map(|data| (data.nlink(), data.ino())).unwrap();
    let (before, inode) = (changed(&path), changed(&kept).1);
    write(&path, &Sample { name: "b".to_owned(), added: None }, Durability::Process).unwrap();
    assert_eq!((before, changed(&kept)), ((2, inode), (1, inode)), "the earlier file is deleted");
    assert_ne!(changed(&path).1, inode, "never written in place: a reader would see a half");
    let written =
        |durability| deletes(folder.path(), || write(&path, &Sample::default(), durability).unwrap());
    let durable = [Durability::PowerCutOrEarlier, Durability::PowerCut].map(written);
    assert_eq!((written(Durability::Process), durable), (true, [false, false]));
}

/// Whether a file in the folder is deleted meanwhile: a rename over a file deletes none.
fn deletes(folder: &Path, meanwhile: impl FnOnce()) -> bool {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, folder, inotify::WatchFlags::DELETE).unwrap();
    meanwhile();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    inotify::Reader::new(&watch, &mut buffer).next().is_ok()
}

#[test]
fn a_folder_in_the_place_of_a_record_stays_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    fs::create_dir(&path).unwrap();
    for durability in [Durability::Process, Durability::PowerCutOrEarlier, Durability::PowerCut] {
        let error = write(&path, &Sample::default(), durability).unwrap_err();
        assert!(!error.is_missing() && path.is_dir(), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{durability:?}");
    }
}

/// Run by the test below, in a process of its own: its limit of descriptors is that of the process.
#[test]
#[ignore = "run by the test below"]
fn write_without_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    write(&path, &Sample::default(), Durability::PowerCut).unwrap();
    let next = Sample { name: "next".to_owned(), added: None };
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let limit = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let free = std::os::fd::AsRawFd::as_raw_fd(&File::open("/dev/null").unwrap()) as u64;
    for descriptors in 0..3 {
        limit(Some(free + descriptors));
        let written = write(&path, &next, Durability::PowerCut);
        limit(current);
        assert_eq!(read::<Sample>(&path).unwrap() == next, written.is_ok(), "{descriptors}: {written:?}");
    }
}

#[test]
fn a_failed_write_never_leaves_the_new_record() {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["record::tests::write_without_descriptors", "--exact", "--ignored", "--test-threads=1"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn setting_aside_keeps_every_damaged_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    for expected in ["x.json.bad", "x.json.1.bad", "x.json.2.bad"] {
        fs::write(&path, expected).unwrap();
        assert_eq!(set_aside(&path).unwrap(), folder.path().join(expected));
    }
    assert_eq!(fs::read_to_string(folder.path().join("x.json.1.bad")).unwrap(), "x.json.1.bad");
}

#[test]
fn of_what_was_set_aside_all_but_the_newest_may_go() {
    let folder = tempfile::tempdir().unwrap();
    let aside = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, "").unwrap();
        // Timestamps of files have a coarse resolution.
        std::thread::sleep(std::time::Duration::from_millis(15));
        set_aside(&path).unwrap()
    };
    let all: Vec<PathBuf> = ["d", "a", "x", "a", "c", "a", "b"].iter().map(|name| aside(name)).collect();
    assert!(all.iter().all(|path| is_aside(path)), "{all:?}");
    let listed = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(surplus_aside(listed), all[..2]);
    assert!(surplus_aside(all[..5].to_vec()).is_empty());
}
