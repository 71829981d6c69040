//! `crisp ps`: containers, with the pods they are in.

use std::process::ExitCode;

use crisp_operation::clock;
use crisp_proto::runtime::v1::{Container, ContainerState};
use serde_json::json;

use super::names::{Names, container_name};
use super::{Client, Format, json};
use crate::table::{Table, short};
use crate::time::ago;

/// List containers
#[derive(Debug, clap::Args)]
pub struct Ps {
    /// Also show containers that do not run
    #[arg(long, short)]
    all: bool,
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Show only containers of this pod
    #[arg(long, short, value_name = "POD")]
    pod: Option<String>,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Ps {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let names = Names::load(&mut client).await?;
        let pod = self.pod.as_deref().map(|text| names.pod(text)).transpose()?;
        let mut shown: Vec<&Container> = names
            .containers
            .iter()
            .filter(|c| self.all || c.state() == ContainerState::ContainerRunning)
            .filter(|c| pod.is_none_or(|p| p.id == c.pod_sandbox_id))
            .collect();
        shown.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        if self.output == Format::Json {
            json::print(&json!({ "containers": json::list(shown)? }))?;
        } else if self.quiet {
            shown.iter().for_each(|c| println!("{}", c.id));
        } else {
            table(&shown, &names).write(&mut std::io::stdout().lock())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(shown: &[&Container], names: &Names) -> Table {
    let mut table =
        Table::new(&["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD"]);
    for c in shown {
        table.row(vec![
            short(&c.id),
            image_name(c),
            ago(c.created_at, clock::now()),
            state(c.state()).to_owned(),
            container_name(c).to_owned(),
            c.metadata.as_ref().map_or(0, |m| m.attempt).to_string(),
            short(&c.pod_sandbox_id),
            names.pod_name(&c.pod_sandbox_id).to_owned(),
        ]);
    }
    table
}

/// What its user called the image, else its id.
fn image_name(container: &Container) -> String {
    let Some(spec) = &container.image else { return short(&container.image_ref) };
    let name = if spec.user_specified_image.is_empty() { &spec.image } else { &spec.user_specified_image };
    let bare = name.strip_prefix("sha256:").unwrap_or(name);
    if bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_hexdigit()) { short(bare) } else { name.clone() }
}

/// A state in one word.
pub fn state(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}
