//! A real Prometheus that scrapes one server.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::registry::free_port;
use crate::{Result, http};

/// A running Prometheus. Dropping it ends Prometheus.
pub struct Prometheus {
    process: Child,
    host: String,
}

impl Prometheus {
    /// Scrapes both pages of `target` each second, in the jobs that the README names, and evaluates the rules
    /// of the file as often. Its data is in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(folder: &Path, target: &str, rules: Option<&Path>) -> Result<Self> {
        Self::start_with(folder, target, rules, "")
    }

    /// As [`start`](Self::start), with more options for both jobs, such as `scheme: https, `.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(folder: &Path, target: &str, rules: Option<&Path>, options: &str) -> Result<Self> {
        let folder = folder.join("prometheus");
        std::fs::create_dir(&folder)?;
        let rules = rules.map_or_else(String::new, |rules| format!("rule_files: [{}]\n", rules.display()));
        let config = folder.join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{rules}scrape_configs:\n\
                 - {{job_name: crisp, {options}static_configs: [{{targets: [\"{target}\"]}}]}}\n\
                 - {{job_name: cadvisor, {options}metrics_path: /metrics/cadvisor, static_configs: [{{targets: [\"{target}\"]}}]}}\n"
            ),
        )?;
        let host = format!("127.0.0.1:{}", free_port()?);
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={host}"))
            .arg("--enable-feature=exemplar-storage")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, host })
    }

    /// The present values of a query, of all series.
    ///
    /// # Errors
    /// When there is no response yet, or the query is refused.
    pub fn query(&self, expression: &str) -> Result<Vec<String>> {
        let answer = self.get(&format!("/api/v1/query?query={}", escaped(expression)))?;
        let series = answer["data"]["result"].as_array().ok_or("no result")?;
        Ok(series.iter().filter_map(|one| Some(one["value"][1].as_str()?.to_owned())).collect())
    }

    /// The traces that exemplars of the last minutes name, for series of the expression.
    ///
    /// # Errors
    /// When there is no response yet, or the query is refused.
    pub fn traces(&self, expression: &str) -> Result<Vec<String>> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let (start, end, expression) = (now - 600, now + 60, escaped(expression));
        let answer =
            self.get(&format!("/api/v1/query_exemplars?query={expression}&start={start}&end={end}"))?;
        let series = answer["data"].as_array().ok_or("no data")?;
        let exemplars = series.iter().filter_map(|one| one["exemplars"].as_array()).flatten();
        Ok(exemplars.filter_map(|one| Some(one["labels"]["trace_id"].as_str()?.to_owned())).collect())
    }

    /// The response to a request of its API.
    ///
    /// # Errors
    /// When there is no response, or it contains an error.
    pub fn get(&self, path: &str) -> Result<Value> {
        let answer = http::send(&self.host, "GET", path, &[], &[])?;
        let answer: Value = serde_json::from_slice(&answer.body)?;
        if answer["status"] == "success" { Ok(answer) } else { Err(format!("{path}: {answer}").into()) }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}
