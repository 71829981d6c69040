//! Runs a plugin with an environment and standard input, and returns its JSON output, within a deadline.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Limit for the output: a result has some hundred bytes; a plugin that prints more is killed.
const MAX_STDOUT: u64 = 1 << 20;
/// Bytes of standard error that are kept, and the limit after which the plugin is killed.
const KEPT_STDERR: u64 = 16 << 10;
const MAX_STDERR: u64 = 16 << 20;

/// Plugins call other programs, iptables above all.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Time limit for a killed plugin to end.
const KILLED: Duration = Duration::from_secs(2);

/// The operation that a plugin must perform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// One call of one plugin.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub plugin: &'a str,
    pub bin_dirs: &'a [PathBuf],
    pub verb: Verb,
    /// `CNI_CONTAINERID`, `CNI_NETNS` and so on.
    pub environment: &'a [(&'static str, String)],
    pub config: &'a Value,
    pub deadline: Duration,
}

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("not found")]
    Missing,
    #[error("{0}")]
    Failed(String),
}

/// The plugin's program, if one of the folders has it.
pub(super) fn find(plugin: &str, bin_dirs: &[PathBuf]) -> Option<PathBuf> {
    let runnable =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    bin_dirs.iter().map(|dir| dir.join(plugin)).find(runnable)
}

/// Runs the plugin and returns its output.
pub(super) async fn run(call: &Call<'_>) -> Result<Vec<u8>, CallError> {
    let program = find(call.plugin, call.bin_dirs).ok_or(CallError::Missing)?;
    let mut child =
        spawn(&program, call).map_err(|e| CallError::Failed(format!("start {}: {e}", program.display())))?;
    let input = serde_json::to_vec(call.config).map_err(|e| CallError::Failed(e.to_string()))?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let finished = timeout(call.deadline, finish(&mut child, &input)).await;
    match &finished {
        // The process id may be reused from now on.
        Ok(Ok(_)) => group.ended(),
        Ok(Err(_)) | Err(_) => drop(group),
    }
    match finished {
        Ok(Ok((status, stdout, stderr))) if status.success() => {
            log_stderr(call, &stderr);
            Ok(stdout)
        }
        Ok(Ok((status, stdout, stderr))) => Err(CallError::Failed(complaint(status, &stdout, &stderr))),
        Ok(Err(e)) => {
            let end = killed(&mut child).await;
            Err(CallError::Failed(format!("{e}; {end}")))
        }
        Err(_) => {
            let end = killed(&mut child).await;
            Err(CallError::Failed(format!("no answer within {:?}; {end}", call.deadline)))
        }
    }
}

async fn killed(child: &mut Child) -> &'static str {
    match timeout(KILLED, child.wait()).await {
        Ok(_) => "it was killed",
        // Uninterruptible, usually because of a dead volume. Another task waits for it.
        Err(_) => "it was killed, but does not end: it waits in the kernel",
    }
}

/// The processes of a running plugin, killed when this is dropped: including those that it started, because
/// one of them often is the one that hangs.
struct Group(Option<Pid>);

impl Group {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "plugins are programs")]
fn spawn(program: &Path, call: &Call<'_>) -> std::io::Result<Child> {
    let path: Vec<String> = call.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
    // Nothing of the server's own environment, which may contain secrets.
    let programs = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    Command::new(program)
        .env_clear()
        .env("PATH", programs)
        .env("CNI_COMMAND", call.verb.as_str())
        .env("CNI_PATH", path.join(":"))
        .envs(call.environment.iter().map(|(key, value)| (*key, value)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

async fn finish(child: &mut Child, input: &[u8]) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A plugin may end without having read all of it.
            let _ = stdin.write_all(input).await;
        }
        Ok(())
    };
    let stdout = read(stdout, "standard output", MAX_STDOUT, MAX_STDOUT);
    let stderr = read(stderr, "standard error", KEPT_STDERR, MAX_STDERR);
    let ((), stdout, stderr) = tokio::try_join!(feed, stdout, stderr)?;
    Ok((child.wait().await?, stdout, stderr))
}

/// The first `kept` bytes.
async fn read(
    stream: Option<impl AsyncRead + Unpin>,
    name: &str,
    kept: u64,
    limit: u64,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(stream) = stream else { return Ok(bytes) };
    let mut limited = stream.take(kept);
    limited.read_to_end(&mut bytes).await?;
    // Reads on, so that a plugin with much output does not block.
    let mut rest = limited.into_inner().take(limit - kept + 1);
    let more = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    if more > limit - kept {
        return Err(std::io::Error::other(format!("it printed more than {} kB on {name}", limit >> 10)));
    }
    Ok(bytes)
}

/// The plugin's error object, else its standard error, else its exit status.
fn complaint(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> String {
    let error: Value = serde_json::from_slice(stdout).unwrap_or_default();
    let field = |name: &str| error.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    if let Some(message) = field("msg") {
        let code =
            error.get("code").and_then(Value::as_u64).map_or(String::new(), |code| format!(" (code {code})"));
        let details = field("details").map_or(String::new(), |details| format!(": {details}"));
        return format!("{message}{details}{code}");
    }
    let stderr = String::from_utf8_lossy(stderr);
    match stderr.trim() {
        "" => status.to_string(),
        said => format!("{status}: {said}"),
    }
}

fn log_stderr(call: &Call<'_>, stderr: &[u8]) {
    if !stderr.is_empty() {
        let said = String::from_utf8_lossy(stderr);
        tracing::debug!(plugin = call.plugin, verb = call.verb.as_str(), said = said.trim(), "CNI plugin");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn script(dir: &Path, name: &str, body: &str) {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    async fn call(dir: &Path, plugin: &str, deadline: Duration) -> Result<String, String> {
        let call = Call {
            plugin,
            bin_dirs: &[dir.join("none"), dir.to_owned()],
            verb: Verb::Add,
            environment: &[("CNI_IFNAME", "eth0".to_owned())],
            config: &serde_json::json!({"name": "x"}),
            deadline,
        };
        run(&call).await.map(|out| String::from_utf8(out).unwrap()).map_err(|e| e.to_string())
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_plugin_gets_its_environment_and_input() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "echo", "echo \"$CNI_COMMAND $CNI_IFNAME $(cat)\"; echo noise >&2");
        assert_eq!(call(dir.path(), "echo", LONG).await.unwrap(), "ADD eth0 {\"name\":\"x\"}\n");
        assert_eq!(call(dir.path(), "gone", LONG).await.unwrap_err(), "not found");
        fs::write(dir.path().join("text"), "not a program").unwrap();
        assert_eq!(call(dir.path(), "text", LONG).await.unwrap_err(), "not found");
    }

    #[tokio::test]
    async fn the_servers_environment_stays_the_servers() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "env", "cat >/dev/null; env | cut -d= -f1 | sort | tr '\\n' ' '");
        let names = call(dir.path(), "env", LONG).await.unwrap();
        // The shell adds the last three.
        let expected = ["CNI_COMMAND", "CNI_IFNAME", "CNI_PATH", "PATH", "PWD", "SHLVL", "_"];
        assert!(names.split_whitespace().all(|name| expected.contains(&name)), "{names}");
        assert!(names.contains("PATH"), "{names}");
    }

    #[tokio::test]
    async fn one_that_prints_without_end_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        for (name, to, expected) in [
            ("out", "", "it printed more than 1024 kB on standard output; it was killed"),
            ("err", ">&2", "it printed more than 16384 kB on standard error; it was killed"),
        ] {
            // A hundred megabytes; the pipe ends with its reader.
            script(dir.path(), name, &format!("head -c 100000000 /dev/zero {to}; sleep 100"));
            let start = Instant::now();
            assert_eq!(call(dir.path(), name, LONG).await.unwrap_err(), expected);
            assert!(start.elapsed() < LONG / 2);
        }
    }

    #[tokio::test]
    async fn failures_carry_the_plugins_words() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "json", r#"echo '{"code":11,"msg":"busy","details":"try later"}'; exit 1"#);
        script(dir.path(), "words", "echo no such bridge >&2; exit 3");
        script(dir.path(), "mute", "exit 1");
        assert_eq!(call(dir.path(), "json", LONG).await.unwrap_err(), "busy: try later (code 11)");
        assert_eq!(call(dir.path(), "words", LONG).await.unwrap_err(), "exit status: 3: no such bridge");
        assert_eq!(call(dir.path(), "mute", LONG).await.unwrap_err(), "exit status: 1");
    }

    #[tokio::test]
    async fn a_hanging_plugin_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let child = dir.path().join("child");
        script(dir.path(), "hang", &format!("sleep 300 & echo $! >{}; wait", child.display()));
        let start = Instant::now();
        let error = call(dir.path(), "hang", Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error, "no answer within 300ms; it was killed");
        assert!(start.elapsed() < Duration::from_secs(5));
        let pid = fs::read_to_string(child).unwrap();
        let state = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let dead = || state().is_empty() || state().contains(") Z");
        for _ in 0..100 {
            if dead() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the plugin's child lives on: {}", state());
    }
}
