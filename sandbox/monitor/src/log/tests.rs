//! Records have the CRI's format, and nothing is lost, whatever the disk does.

use std::io::{Read, Seek, SeekFrom};

use rustix::fs::{Mode, OFlags};

use super::*;

fn file() -> (std::fs::File, Log) {
    let read = tempfile::tempfile().unwrap();
    let write = read.try_clone().unwrap();
    (read, Log::new(Some(write.into())))
}

fn contents(mut file: std::fs::File) -> String {
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

/// (stream, tag, text) of each record; asserts that times never fall.
fn records(text: &str) -> Vec<(&str, &str, &str)> {
    let mut last = "";
    let split = |line| {
        let mut words = str::splitn(line, 4, ' ');
        let time = words.next().unwrap();
        assert!(time.len() == 30 && time.ends_with('Z') && time >= last, "{time} after {last}");
        last = time;
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap())
    };
    text.lines().map(split).collect()
}

/// The text that kubelet makes of the records of one stream.
fn joined(text: &str, stream: &str) -> String {
    let mut whole = String::new();
    for (_, tag, text) in records(text).into_iter().filter(|(s, ..)| *s == stream) {
        whole += text;
        if tag == "F" {
            whole += "\n";
        }
    }
    whole
}

#[test]
fn lines_of_two_streams() {
    let (read, mut log) = file();
    let scratch = &mut Vec::new();
    log.feed(Stream::Stdout, b"one\ntw", scratch);
    log.feed(Stream::Stderr, b"warn\n\n", scratch);
    log.feed(Stream::Stdout, b"o\nthree", scratch);
    log.finish(Stream::Stdout, scratch);
    log.finish(Stream::Stderr, scratch);
    assert!(scratch.is_empty());
    let text = contents(read);
    let expected = [
        ("stdout", "F", "one"),
        ("stderr", "F", "warn"),
        ("stderr", "F", ""),
        ("stdout", "F", "two"),
        ("stdout", "P", "three"),
    ];
    assert_eq!(records(&text), expected);
    assert_eq!(log.report().written, 19);
}

#[test]
fn long_lines_are_split_and_a_line_of_the_longest_length_is_whole() {
    let longest = lines::LONGEST;
    for (len, tags) in [
        (longest - 1, vec!["F"]),
        (longest, vec!["F"]),
        (longest + 1, vec!["P", "F"]),
        (3 * longest, vec!["P", "P", "F"]),
    ] {
        for chunk in [1000, 4096, 1 << 20] {
            let (read, mut log) = file();
            let line = format!("{}\n", "x".repeat(len));
            for part in line.as_bytes().chunks(chunk) {
                log.feed(Stream::Stdout, part, &mut Vec::new());
            }
            let text = contents(read);
            assert_eq!(records(&text).iter().map(|r| r.1).collect::<Vec<_>>(), tags, "{len} by {chunk}");
            assert_eq!(joined(&text, "stdout"), line);
        }
    }
}

#[test]
fn every_byte_arrives_for_any_cut_of_the_input() {
    let input: String = (0..4000)
        .map(|n| format!("{}{}", "ab".repeat(n % 37), if n % 3 == 0 { "\n" } else { "." }))
        .collect();
    for chunk in [1, 7, 1000, 65_536] {
        let (read, mut log) = file();
        for part in input.as_bytes().chunks(chunk) {
            log.feed(Stream::Stderr, part, &mut Vec::new());
        }
        log.finish(Stream::Stderr, &mut Vec::new());
        assert_eq!(joined(&contents(read), "stderr"), input, "by {chunk}");
    }
}

#[test]
fn without_a_file_output_is_counted_and_dropped() {
    let mut log = Log::new(None);
    assert_eq!(log.feed(Stream::Stdout, b"one\n", &mut Vec::new()), Change::None);
    log.finish(Stream::Stdout, &mut Vec::new());
    assert_eq!((log.report().discarded, log.report().written), (4, 0));
}

#[test]
fn a_full_disk_loses_nothing() {
    let full = rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty()).unwrap();
    let mut log = Log::new(Some(full));
    let input = "line\n".repeat(100_000);
    let enospc = Errno::NOSPC.raw_os_error();
    assert_eq!(log.feed(Stream::Stdout, input.as_bytes(), &mut Vec::new()), Change::Failing(enospc));
    assert!(log.blocked() && log.retry_at().is_some());
    assert_eq!(log.retry(), Change::None);
    assert_eq!((log.report().failing, log.report().failures), (enospc, 2));
    let read = tempfile::tempfile().unwrap();
    assert_eq!(log.reopen(read.try_clone().unwrap().into()), Change::Working);
    assert!(!log.blocked() && log.retry_at().is_none() && log.report().failing == 0);
    assert_eq!(joined(&contents(read), "stdout"), input);
}

#[test]
fn a_record_torn_by_a_full_disk_is_whole_in_the_next_file() {
    // A file size limit tears records as a full disk does, and so does a pipe that is full.
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let mut log = Log::new(Some(write));
    let input: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    assert!(matches!(log.feed(Stream::Stdout, input.as_bytes(), &mut Vec::new()), Change::Failing(_)));
    let mut old = vec![0; 1 << 20];
    let got = rustix::io::read(&read, &mut old[..]).unwrap();
    let old = String::from_utf8(old[..got].to_vec()).unwrap();
    // Keeps the old file failing, so that the rest must go to the new one.
    rustix::io::ioctl_fionbio(&read, true).unwrap();
    drop(read);
    let new = tempfile::tempfile().unwrap();
    assert_eq!(log.reopen(new.try_clone().unwrap().into()), Change::Working);
    let whole = &old[..old.rfind('\n').unwrap() + 1];
    assert!(whole.len() < old.len(), "a record was torn");
    assert_eq!(joined(&format!("{whole}{}", contents(new)), "stdout"), input);
}

#[test]
fn times_stand_still_while_the_clock_is_adjusted_and_follow_one_that_was_wrong() {
    let hour = 3_600_000_000_000;
    assert_eq!(time_of_line(5 * hour, 5 * hour - 999_999_999), 5 * hour);
    assert_eq!(time_of_line(5 * hour, 5 * hour + 1), 5 * hour + 1);
    assert_eq!(time_of_line(5 * hour, hour), hour);
    assert_eq!(time_of_line(0, i64::MIN), i64::MIN);
}
