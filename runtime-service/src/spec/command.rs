//! The command line: the image's ENTRYPOINT and CMD, replaced by the container's command and args.

use super::SpecError;

/// ```text
///                 no command            command
///   no args       ENTRYPOINT + CMD      command
///   args          ENTRYPOINT + args     command + args
/// ```
///
/// (Kubernetes, "Define a Command and Arguments for a Container".)
///
/// # Errors
/// When there is no command at all.
pub fn resolve(
    entrypoint: &[String],
    cmd: &[String],
    command: &[String],
    args: &[String],
) -> Result<Vec<String>, SpecError> {
    let (first, second) = match (command.is_empty(), args.is_empty()) {
        (true, true) => (entrypoint, cmd),
        (true, false) => (entrypoint, args),
        (false, _) => (command, args),
    };
    let line: Vec<String> = first.iter().chain(second).cloned().collect();
    match line.first() {
        None => Err(SpecError::NoCommand),
        Some(program) if program.is_empty() => Err(SpecError::EmptyProgram),
        Some(_) => Ok(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_matrix() {
        for (entrypoint, cmd, command, args, expected) in [
            ("/ep -a", "foo bar", "", "", "/ep -a foo bar"),
            ("/ep -a", "foo bar", "/cmd", "", "/cmd"),
            ("/ep -a", "foo bar", "", "zoo", "/ep -a zoo"),
            ("/ep -a", "foo bar", "/cmd", "zoo", "/cmd zoo"),
            ("", "sh -c", "", "", "sh -c"),
            ("", "sh -c", "", "ls", "ls"),
            ("/ep", "", "", "", "/ep"),
            ("", "", "/cmd", "x", "/cmd x"),
        ] {
            let line = resolve(&words(entrypoint), &words(cmd), &words(command), &words(args)).unwrap();
            assert_eq!(line, words(expected), "{entrypoint:?} {cmd:?} {command:?} {args:?}");
        }
    }

    #[test]
    fn a_missing_command_is_an_error() {
        let error = resolve(&[], &[], &[], &[]).unwrap_err();
        assert!(error.to_string().contains("no command"), "{error}");
        assert!(resolve(&[], &["".into()], &[], &[]).is_err());
    }
}
