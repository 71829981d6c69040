//! The commands that Exec requests, and the streams of Exec and Attach.

use std::path::PathBuf;

use crisp_streaming::ProcessRequest;

use super::container::strings;
use super::{ConvertError, absolute, invalid, no_nul, optional};
use crate::ops::exec::changes::Changes;

/// # Errors
/// There is no program, or a word holds a NUL byte.
pub fn command(field: &str, words: Vec<String>) -> Result<Vec<String>, ConvertError> {
    if words.first().is_none_or(String::is_empty) {
        Err(invalid(field, "empty"))
    } else {
        strings(field, words)
    }
}

/// # Errors
/// [`ConvertError`] naming the field; without the values of variables, which may be secrets.
pub(crate) fn changes(
    user: String,
    environment: Vec<String>,
    working_dir: String,
) -> Result<Changes, ConvertError> {
    let variable = |(number, text): (usize, String)| {
        let field = format!("environment[{number}]");
        let text = no_nul(&field, text)?;
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(invalid(field, "is not NAME=VALUE")),
        }
    };
    let directory = |path: String| -> Result<Option<PathBuf>, ConvertError> {
        if path.is_empty() { Ok(None) } else { absolute("working_dir", path).map(Some) }
    };
    Ok(Changes {
        user: optional("user", user)?,
        environment: environment.into_iter().enumerate().map(variable).collect::<Result<_, _>>()?,
        working_dir: directory(working_dir)?,
    })
}

/// # Errors
/// The streams exclude each other, or none is requested; kubelet and other runtimes have the same rules.
pub fn process(request: ProcessRequest) -> Result<ProcessRequest, ConvertError> {
    if request.tty && request.stderr {
        return Err(invalid("stderr", "cannot be apart from stdout with a terminal: leave one of them out"));
    }
    if !(request.stdin || request.stdout || request.stderr) {
        return Err(invalid("stdin, stdout, stderr", "none is asked for"));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_checked_and_values_are_not_shown() {
        let changed = |user: &str, variable: &str, directory: &str| {
            let refused = changes(user.into(), vec!["A=1".into(), variable.into()], directory.into());
            refused.map_err(|error| error.to_string())
        };
        let good = changed("app:10", "B=x=y", "/srv").unwrap();
        assert_eq!(good.environment, [("A".into(), "1".into()), ("B".into(), "x=y".into())]);
        assert_eq!((good.user.as_deref(), good.working_dir), (Some("app:10"), Some("/srv".into())));
        assert_eq!(changes(String::new(), vec![], String::new()).unwrap(), Changes::default());
        assert_eq!(changed("", "hunter2", "/").unwrap_err(), "environment[1]: is not NAME=VALUE");
        assert_eq!(changed("", "=hunter2", "/").unwrap_err(), "environment[1]: is not NAME=VALUE");
        assert_eq!(changed("", "B=hunter2\0", "/").unwrap_err(), "environment[1]: holds a NUL byte");
        assert!(changed("a\0", "B=", "/").unwrap_err().starts_with("user: "));
        assert!(changed("", "B=", "srv").unwrap_err().starts_with("working_dir: "));
    }

    #[test]
    fn what_cannot_be_had_together_is_refused() {
        let request = |stdin, stdout, stderr, tty| process(ProcessRequest { stdin, stdout, stderr, tty });
        assert!(request(true, true, false, true).is_ok());
        assert!(request(false, false, true, false).is_ok());
        assert!(request(false, true, true, true).is_err());
        assert!(request(false, false, false, false).is_err());
    }
}
