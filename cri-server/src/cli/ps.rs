//! `crisp ps`: lists containers with their pods.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use crisp_operation::clock;
use crisp_proto::runtime::v1::{
    Container, ContainerState, ListContainerStatsRequest, ListImagesRequest, PodSandboxStatusRequest,
};
use serde_json::{Value, json};

use super::client::refused;
use super::details::Details;
use super::filter::{Filters, name_matches};
use super::listing::{Format, RowFormat};
use super::names::{Names, container_name};
use super::port::published;
use super::stuck::{self, View};
use super::{Client, json};
use crate::table::{Table, short, size};
use crate::time::{ago, shown};

const FILTERS: [&str; 10] =
    ["name", "id", "label", "status", "ancestor", "exited", "pod", "before", "since", "health"];
/// Characters of a command that are shown.
const COMMAND: usize = 20;

/// List containers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp ps -a --filter status=exited --filter exited=1
  crisp ps --format '{{.ID}}\\t{{.Names}}\\t{{.Status}}'
  crisp ps -q --filter label=app=web
  crisp ps --stuck=10s     # stages that operations are in, their deadlines, and what they wait for

Filters: name, id, label, status (created, running, paused, exited, unknown), ancestor (an image), exited
(an exit code), pod, before and since (a container), health (starting, healthy, unhealthy, none).
Fields of templates: ID, Names, Image, Command, CreatedAt, RunningFor, Status, State, ExitCode, Ports, Size,
Labels, Pod, PodID, Attempt; with --stuck: Operation, Kind, ID, Name, Pod, Namespace, Since, Stage, StageSince, Left,
WaitsFor.")]
pub struct Ps {
    /// Also show containers that do not run
    #[arg(long, short)]
    all: bool,
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Show only this many newest containers, running or not
    #[arg(long, short = 'n', value_name = "COUNT")]
    last: Option<usize>,
    /// Show only the newest container, running or not
    #[arg(long, short = 'l', conflicts_with = "last")]
    latest: bool,
    /// Also show the bytes that each container has written, and their sum with its image
    #[arg(long, short)]
    size: bool,
    /// Show ids and commands in full
    #[arg(long)]
    no_trunc: bool,
    /// Show only containers of this pod
    #[arg(long, short, value_name = "POD")]
    pod: Option<String>,
    /// Show only what matches, as KEY=VALUE; see below
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `json`, or a template; see below
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["quiet", "output"])]
    format: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Instead of containers, list operations of the server that take longer than this [without a value: 1s]
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1s",
        conflicts_with_all = ["all", "filter", "last", "latest", "size", "pod"]
    )]
    stuck: Option<String>,
}

impl Ps {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let format = RowFormat::parse(self.format.as_deref())?;
        if let Some(longer_than) = &self.stuck {
            let view = View::new(format, self.output, self.quiet, self.no_trunc);
            return stuck::run(client, longer_than, &view).await;
        }
        let filters = Filters::parse(&self.filter, &FILTERS)?;
        filters.check("status", &["created", "running", "paused", "exited", "unknown"])?;
        filters.check("health", &["starting", "healthy", "unhealthy", "none"])?;
        if let Some(code) = filters.values("exited").find(|code| code.parse::<i32>().is_err()) {
            bail!("--filter exited={code}: expected an exit code");
        }
        let names = Names::load(&mut client).await?;
        let details = Details::load(&mut client).await?;
        let shown = self.chosen(&names, &details, &filters)?;
        let document = || Ok(json!({ "containers": json::list(shown.iter().copied())? }));
        if self.output.print(document)? {
            return Ok(ExitCode::SUCCESS);
        }
        if self.quiet {
            let mut out = std::io::stdout().lock();
            shown.iter().try_for_each(|c| writeln!(out, "{}", self.id(&c.id)))?;
            return Ok(ExitCode::SUCCESS);
        }
        let sizes = if self.size { Sizes::load(&mut client).await? } else { Sizes::default() };
        let ports = ports(&mut client, &shown).await;
        let rows: Vec<Value> = shown.iter().map(|c| self.row(c, &names, &details, &sizes, &ports)).collect();
        format.print(&rows, || self.table(&rows))?;
        Ok(ExitCode::SUCCESS)
    }

    /// The containers to show, the newest first.
    fn chosen<'a>(
        &self,
        names: &'a Names,
        details: &Details,
        filters: &Filters,
    ) -> anyhow::Result<Vec<&'a Container>> {
        let pod = self.pod.as_deref().map(|text| names.pod(text)).transpose()?;
        let count = self.last.or(self.latest.then_some(1));
        let all = self.all || count.is_some() || filters.has("status") || filters.has("exited");
        let created = |key| {
            let times = filters.values(key).map(|text| names.container(text).map(|c| c.created_at));
            times.collect::<anyhow::Result<Vec<i64>>>()
        };
        let (before, since) = (created("before")?, created("since")?);
        let mut shown: Vec<&Container> = names
            .containers
            .iter()
            .filter(|c| all || c.state() == ContainerState::ContainerRunning)
            .filter(|c| pod.is_none_or(|p| p.id == c.pod_sandbox_id))
            .filter(|c| {
                before.iter().all(|at| c.created_at < *at) && since.iter().all(|at| c.created_at > *at)
            })
            .filter(|c| matches(c, names, details, filters))
            .collect();
        shown.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        shown.truncate(count.unwrap_or(usize::MAX));
        Ok(shown)
    }

    fn id(&self, id: &str) -> String {
        if self.no_trunc { id.to_owned() } else { short(id) }
    }

    fn row(
        &self,
        c: &Container,
        names: &Names,
        details: &Details,
        sizes: &Sizes,
        ports: &HashMap<String, String>,
    ) -> Value {
        let more = details.of(&c.id);
        let labels: Vec<String> = c.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        json!({
            "ID": self.id(&c.id),
            "Names": container_name(c),
            "Image": image_name(c),
            "Command": command(more.map_or(&[], |d| &d.command), self.no_trunc),
            "CreatedAt": shown(c.created_at),
            "RunningFor": ago(c.created_at, clock::now()),
            "Status": details.status(c),
            "State": details.state(c),
            "ExitCode": more.map_or(0, |d| d.exit_code),
            "Ports": ports.get(&c.pod_sandbox_id).map_or("", String::as_str),
            "Size": sizes.of(c),
            "Labels": labels.join(","),
            "Pod": names.pod_name(&c.pod_sandbox_id),
            "PodID": self.id(&c.pod_sandbox_id),
            "Attempt": c.metadata.as_ref().map_or(0, |m| m.attempt),
        })
    }

    fn table(&self, rows: &[Value]) -> Table {
        let mut columns = vec![
            ("CONTAINER ID", "ID"),
            ("IMAGE", "Image"),
            ("COMMAND", "Command"),
            ("CREATED", "RunningFor"),
            ("STATUS", "Status"),
            ("PORTS", "Ports"),
        ];
        if self.output == Format::Wide {
            columns.extend([("ATTEMPT", "Attempt"), ("POD ID", "PodID")]);
        }
        columns.push(("POD", "Pod"));
        if self.size {
            columns.push(("SIZE", "Size"));
        }
        columns.push(("NAMES", "Names"));
        let mut table = Table::new(&columns.iter().map(|(heading, _)| *heading).collect::<Vec<_>>());
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        rows.iter().for_each(|row| table.row(columns.iter().map(|(_, field)| text(&row[*field])).collect()));
        table
    }
}

fn matches(c: &Container, names: &Names, details: &Details, filters: &Filters) -> bool {
    let labels: &BTreeMap<String, String> = &c.labels;
    let is_of = |image: &str| {
        let name = image_name(c);
        name == image
            || name.rsplit('/').next() == Some(image)
            || name.rsplit('/').next().and_then(|last| last.split([':', '@']).next()) == Some(image)
            || short(&c.image_id) == short(image)
            || (image.len() >= 4 && c.image_id.trim_start_matches("sha256:").starts_with(image))
    };
    let code = details.of(&c.id).map(|d| d.exit_code.to_string());
    filters.any("name", |wanted| name_matches(container_name(c), wanted))
        && filters.any("id", |wanted| c.id.starts_with(wanted))
        && filters.any("status", |wanted| details.state(c) == wanted)
        && filters.any("ancestor", is_of)
        && filters.any("pod", |wanted| {
            c.pod_sandbox_id.starts_with(wanted) || names.pod_name(&c.pod_sandbox_id) == wanted
        })
        && filters.any("exited", |wanted| {
            c.state() == ContainerState::ContainerExited && code.as_deref() == Some(wanted)
        })
        && filters.any("health", |wanted| {
            details.health(c).map_or("none", |health| health.status.as_str()) == wanted
        })
        && filters.labels(|key| labels.get(key))
}

fn command(words: &[String], whole: bool) -> String {
    let line: String = words.join(" ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if whole || line.chars().count() <= COMMAND {
        return format!("\"{line}\"");
    }
    format!("\"{}…\"", line.chars().take(COMMAND - 1).collect::<String>())
}

/// The image's name as the user wrote it, else its id.
pub fn image_name(container: &Container) -> String {
    let Some(spec) = &container.image else { return short(&container.image_ref) };
    let name = if spec.user_specified_image.is_empty() { &spec.image } else { &spec.user_specified_image };
    let bare = name.strip_prefix("sha256:").unwrap_or(name);
    if bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_hexdigit()) { short(bare) } else { name.clone() }
}

/// The published ports of each pod; a pod that is gone has none.
async fn ports(client: &mut Client, shown: &[&Container]) -> HashMap<String, String> {
    let mut ports = HashMap::new();
    for container in shown.iter().filter(|c| c.state() == ContainerState::ContainerRunning) {
        let pod = &container.pod_sandbox_id;
        if ports.contains_key(pod) {
            continue;
        }
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
        let status = client.runtime.pod_sandbox_status(request).await;
        let info = status.ok().and_then(|s| s.into_inner().info.remove("info"));
        let info = info.and_then(|info| serde_json::from_str::<Value>(&info).ok());
        ports.insert(pod.clone(), info.map_or(String::new(), |info| published(&info).join(", ")));
    }
    ports
}

/// Bytes that containers have written, and bytes of their images.
#[derive(Default)]
struct Sizes {
    written: HashMap<String, u64>,
    images: HashMap<String, u64>,
}

impl Sizes {
    async fn load(client: &mut Client) -> anyhow::Result<Self> {
        let stats = client.runtime.list_container_stats(ListContainerStatsRequest::default()).await;
        let images = client.images.list_images(ListImagesRequest::default()).await;
        let written = stats
            .map_err(refused)?
            .into_inner()
            .stats
            .into_iter()
            .filter_map(|stats| Some((stats.attributes?.id, stats.writable_layer?.used_bytes?.value)));
        let images = images.map_err(refused)?.into_inner().images;
        let images = images.into_iter().map(|image| (image.id, image.size)).collect();
        Ok(Self { written: written.collect(), images })
    }

    fn of(&self, container: &Container) -> String {
        let Some(written) = self.written.get(&container.id) else { return String::new() };
        let image = self.images.get(&container.image_id).copied().unwrap_or_default();
        format!("{} (virtual {})", size(*written), size(image + written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_commands_are_cut_and_print_no_control_characters() {
        let words = ["sh", "-c", "echo \x1b[31m one two three"].map(str::to_owned);
        assert_eq!(command(&words, false), "\"sh -c echo  [31m on…\"");
        assert_eq!(command(&words[..2], false), "\"sh -c\"");
        assert!(command(&words, true).ends_with("three\""));
    }
}
