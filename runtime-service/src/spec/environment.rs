//! Environment variables of the first process.

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names and values in the order in which the names first appear; a later value replaces an earlier one.
#[derive(Debug, Default)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    pub fn set_if_missing(&mut self, name: &str, value: &str) {
        if !self.0.iter().any(|(known, _)| known == name) {
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
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

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
