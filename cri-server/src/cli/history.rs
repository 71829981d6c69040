//! `crisp history`: the steps that made an image's layers.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use crisp_operation::clock;
use crisp_proto::runtime::v1::{ImageSpec, ImageStatusRequest};
use serde_json::{Value, json};

use super::Client;
use super::client::refused;
use super::listing::{Format, RowFormat};
use crate::print;
use crate::table::{Table, short, size};
use crate::time::{ago, parse};

/// Characters of a command that are shown.
const COMMAND: usize = 45;

/// Show the steps that made the layers of an image, the newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp history --no-trunc --format '{{.CreatedBy}}' busybox | tac
  crisp history -q busybox

Fields of templates: ID, CreatedAt, CreatedSince, CreatedBy, Size, Comment.")]
pub struct History {
    /// Show ids and commands in full
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids
    #[arg(long, short, conflicts_with = "format")]
    quiet: bool,
    /// `table`, `json`, or a template; see below
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Image, by tag, digest, id or the beginning of an id
    image: String,
}

impl History {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let format = RowFormat::parse(self.format.as_deref())?;
        let image = Some(ImageSpec { image: self.image.clone(), ..ImageSpec::default() });
        let request = ImageStatusRequest { image, verbose: true };
        let reply = client.images.image_status(request).await.map_err(refused)?.into_inner();
        let Some(image) = reply.image else {
            bail!("no image {:?}; `crisp images` lists them all", self.image)
        };
        let info = reply.info.get("info").context("the server says nothing of the image's history")?;
        let rows = self.rows(&image.id, &serde_json::from_str(info)?);
        if self.quiet {
            rows.iter().try_for_each(|row| print::line(row["ID"].as_str().unwrap_or_default()))?;
        } else if !self.output.print(|| Ok(json!({ "history": rows })))? {
            format.print(&rows, || table(&rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The newest first. Steps that made no layer have no size.
    fn rows(&self, id: &str, info: &Value) -> Vec<Value> {
        let mut sizes = info["layerSizes"].as_array().into_iter().flatten();
        let steps = info["imageSpec"]["history"].as_array().cloned().unwrap_or_default();
        let mut rows: Vec<Value> = steps
            .iter()
            .map(|step| {
                let makes_layer = step["empty_layer"] != json!(true);
                let bytes = if makes_layer { sizes.next().and_then(Value::as_u64).unwrap_or(0) } else { 0 };
                self.row(step, bytes)
            })
            .collect();
        rows.reverse();
        if let Some(newest) = rows.first_mut() {
            newest["ID"] = json!(if self.no_trunc { id.to_owned() } else { short(id) });
        }
        rows
    }

    fn row(&self, step: &Value, bytes: u64) -> Value {
        let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
        let created = text("created");
        let line = text("created_by").replace(['\t', '\n'], " ");
        let is_long = !self.no_trunc && line.chars().count() > COMMAND;
        let shown = if is_long { line.chars().take(COMMAND - 1).chain(['…']).collect() } else { line };
        json!({
            "ID": "<missing>",
            "CreatedAt": created,
            "CreatedSince": parse(&created).map_or_else(String::new, |at| ago(at, clock::now())),
            "CreatedBy": shown,
            "Size": size(bytes),
            "Comment": text("comment"),
        })
    }
}

fn table(rows: &[Value]) -> Table {
    let mut table = Table::new(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for row in rows {
        let cells = ["ID", "CreatedSince", "CreatedBy", "Size", "Comment"];
        table.row(cells.iter().map(|field| row[field].as_str().unwrap_or_default().to_owned()).collect());
    }
    table
}
