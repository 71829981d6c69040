//! Explains exit codes.

/// Names of signals that end processes, by number.
const SIGNALS: [(i32, &str, &str); 12] = [
    (1, "SIGHUP", "its terminal or its parent is gone"),
    (2, "SIGINT", "interrupted, as by Ctrl-C"),
    (3, "SIGQUIT", "told to quit with a core dump"),
    (4, "SIGILL", "an instruction that this processor does not have: an image for another one?"),
    (6, "SIGABRT", "the program ended itself after an error of its own (abort)"),
    (7, "SIGBUS", "it used memory that is not there, such as of a file that was cut"),
    (8, "SIGFPE", "a division by zero or alike"),
    (9, "SIGKILL", ""),
    (11, "SIGSEGV", "the program crashed: it used memory that is not its own"),
    (13, "SIGPIPE", "it wrote to a pipe that no program reads"),
    (15, "SIGTERM", ""),
    (31, "SIGSYS", "a system call that its seccomp profile forbids"),
];

/// Explains an exit code in words. `was_stopped`: the container had been asked to stop.
pub fn explain(code: i32, reason: &str, was_stopped: bool) -> String {
    let meaning = match (reason, code) {
        ("OOMKilled", _) => {
            "killed by the kernel because it used more memory than its limit allows (out of memory, OOM)"
                .to_owned()
        }
        ("StartError", _) => "it could not be started".to_owned(),
        ("Unknown", _) => "how it ended is not known".to_owned(),
        (_, 0) => "it has done its work".to_owned(),
        (_, 126) => "a command in it cannot be executed (not a program, or no permission)".to_owned(),
        (_, 127) => "command not found: a program that it calls is not in the image".to_owned(),
        (_, 129..=192) => signal(code - 128, was_stopped),
        _ => "the program's own failure: its log says more".to_owned(),
    };
    format!("exit code {code}: {meaning}")
}

fn signal(number: i32, was_stopped: bool) -> String {
    let known = SIGNALS.iter().find(|(known, ..)| *known == number);
    let (name, meaning) = known.map_or(("", ""), |(_, name, meaning)| (*name, *meaning));
    match (number, was_stopped) {
        (9, true) => {
            "killed by signal 9 (SIGKILL): it did not end by itself in the time after its stop signal".to_owned()
        }
        (9, false) => {
            "killed by signal 9 (SIGKILL) from outside, as by `kill -9`, not by this server and not for its memory limit"
                .to_owned()
        }
        (15, true) => "ended by signal 15 (SIGTERM), as it was asked to stop".to_owned(),
        (15, false) => "ended by signal 15 (SIGTERM), which was not sent by a stop of this server".to_owned(),
        _ if name.is_empty() => format!("ended by signal {number}"),
        _ => format!("ended by signal {number} ({name}): {meaning}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_meaning() {
        for (code, reason, was_stopped, words) in [
            (0, "Completed", false, "done its work"),
            (3, "Error", false, "own failure"),
            (126, "Error", false, "cannot be executed"),
            (127, "Error", false, "command not found"),
            (128, "StartError", false, "could not be started"),
            (137, "OOMKilled", false, "out of memory"),
            (137, "Error", false, "from outside"),
            (137, "Error", true, "did not end by itself"),
            (139, "Error", false, "SIGSEGV"),
            (143, "Error", true, "asked to stop"),
            (162, "Error", false, "signal 34"),
            (255, "Unknown", false, "not known"),
        ] {
            let text = explain(code, reason, was_stopped);
            assert!(text.contains(words) && text.contains(&code.to_string()), "{text}");
        }
    }
}
