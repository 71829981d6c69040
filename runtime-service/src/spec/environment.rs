//! Environment variables of the first process.

use std::collections::HashMap;

/// Limit for one string with its NUL byte (`MAX_ARG_STRLEN` of the kernel).
const MAX_STRING: usize = 128 << 10;
/// Limit for all arguments and variables with a pointer to each, for any stack limit (three quarters of
/// `_STK_LIM`).
const MAX_TOTAL: usize = 6 << 20;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names and values in the order in which the names first appear; a later value replaces an earlier one.
#[derive(Debug, Default)]
pub struct Environment {
    variables: Vec<(String, String)>,
    /// The index of each name: an image may have hundreds of thousands.
    places: HashMap<String, usize>,
}

impl Environment {
    pub fn set(&mut self, name: &str, value: &str) {
        match self.places.get(name) {
            Some(place) => value.clone_into(&mut self.variables[*place].1),
            None => {
                self.places.insert(name.to_owned(), self.variables.len());
                self.variables.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    pub fn set_if_missing(&mut self, name: &str, value: &str) {
        if !self.places.contains_key(name) {
            self.set(name, value);
        }
    }

    /// `NAME=value`; a line of an image without `=` is a name without a value.
    pub fn set_line(&mut self, line: &str) {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        if !name.is_empty() {
            self.set(name, value);
        }
    }

    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.variables.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// The sources of the environment; a later field replaces values of an earlier one.
#[derive(Debug)]
pub struct Sources<'a> {
    pub tty: bool,
    pub hostname: &'a str,
    pub image: &'a [String],
    pub request: &'a [(String, String)],
    /// Home folder of the user, used when no source sets HOME.
    pub home: &'a str,
}

/// The environment as `NAME=value` lines without duplicates.
#[must_use]
pub fn resolve(sources: &Sources<'_>) -> Vec<String> {
    let mut environment = Environment::default();
    environment.set("PATH", PATH);
    if sources.tty {
        environment.set("TERM", "xterm");
    }
    for line in sources.image {
        environment.set_line(line);
    }
    environment.set("HOSTNAME", sources.hostname);
    for (name, value) in sources.request {
        environment.set(name, value);
    }
    environment.set_if_missing("HOME", sources.home);
    environment.lines()
}

/// The reason why no process can have these arguments and this environment.
#[derive(Debug, thiserror::Error)]
pub enum TooLarge {
    #[error("the {what} {start:?}... has {bytes} bytes: the kernel takes less than {MAX_STRING}")]
    String { what: &'static str, start: String, bytes: usize },
    #[error(
        "{count} arguments and environment variables of the image and the request have {bytes} bytes together: \
         the kernel takes {MAX_TOTAL} at most"
    )]
    Total { count: usize, bytes: usize },
}

/// Checks that execve(2) accepts them.
///
/// # Errors
/// The kernel would refuse them at the start.
pub fn check(arguments: &[String], environment: &[String]) -> Result<(), TooLarge> {
    for (what, strings) in [("argument", arguments), ("environment variable", environment)] {
        if let Some(long) = strings.iter().find(|string| string.len() >= MAX_STRING) {
            // Of a variable its name: the value may be a secret.
            let named = if what == "argument" { long } else { long.split('=').next().unwrap_or_default() };
            let start = named.chars().take(40).collect();
            return Err(TooLarge::String { what, start, bytes: long.len() });
        }
    }
    let all = || arguments.iter().chain(environment);
    let bytes = all().map(|string| string.len() + 1 + size_of::<usize>()).sum();
    let count = all().count();
    if bytes > MAX_TOTAL { Err(TooLarge::Total { count, bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hundreds_of_thousands_of_names_take_no_time() {
        let image: Vec<String> = (0..500_000).map(|number| format!("a{number}=")).collect();
        let begun = std::time::Instant::now();
        let lines = resolve(&Sources { tty: false, hostname: "h", image: &image, request: &[], home: "/" });
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(lines.len(), 500_003);
        let error = check(&[], &lines).unwrap_err().to_string();
        assert!(error.contains("500003 arguments and environment variables"), "{error}");
    }

    #[test]
    fn what_the_kernel_takes_is_not_refused() {
        let long = "x".repeat(MAX_STRING - 1);
        assert!(check(std::slice::from_ref(&long), &[]).is_ok());
        assert!(check(&[], &[long + "x"]).unwrap_err().to_string().contains("131072 bytes"));
        let secret = format!("TOKEN=hunter2{}", "x".repeat(MAX_STRING));
        let error = check(&[], &[secret]).unwrap_err().to_string();
        assert!(error.contains("\"TOKEN\"") && !error.contains("hunter2"), "{error}");
        let many: Vec<String> = (0..100_000).map(|number| format!("NAME_{number:06}=some value")).collect();
        assert!(check(&[], &many).is_ok());
    }

    #[test]
    fn later_ones_win_and_defaults_fill_in() {
        let image =
            ["PATH=/opt/bin".to_owned(), "A=image".to_owned(), "B=1=2".to_owned(), "EMPTY".to_owned()];
        let request = [("A".to_owned(), "request".to_owned())];
        let sources =
            Sources { tty: true, hostname: "web", image: &image, request: &request, home: "/home/u" };
        assert_eq!(
            resolve(&sources),
            ["PATH=/opt/bin", "TERM=xterm", "A=request", "B=1=2", "EMPTY=", "HOSTNAME=web", "HOME=/home/u"]
        );
    }

    #[test]
    fn a_bare_image_still_has_a_path() {
        let lines = resolve(&Sources { tty: false, hostname: "h", image: &[], request: &[], home: "/" });
        assert_eq!(lines, [format!("PATH={PATH}"), "HOSTNAME=h".to_owned(), "HOME=/".to_owned()]);
    }
}
