//! `crisp images`.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use crisp_operation::clock;
use crisp_proto::runtime::v1::{Image, ImageSpec, ImageStatusRequest, ListImagesRequest};
use serde_json::{Value, json};

use super::client::refused;
use super::filter::{Filters, reference_matches};
use super::listing::{Format, RowFormat};
use super::{Client, json};
use crate::table::{Table, short, size};
use crate::time::{self, ago};

const FILTERS: [&str; 6] = ["reference", "dangling", "label", "before", "since", "until"];

/// List images
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp images 'registry.example.org/*'
  crisp images -q --filter dangling=true
  crisp images --format '{{.Repository}}:{{.Tag}}\\t{{.Size}}'

Filters: reference (NAME or NAME:TAG; * and ? stand for other letters), dangling (true or false), label, before and since
(an image), until (a time or an age).
Fields of templates: Repository, Tag, Digest, ID, CreatedAt, CreatedSince, Size.")]
pub struct Images {
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Accepted for docker's users: there are no intermediate images
    #[arg(long, short)]
    all: bool,
    /// Also print digests
    #[arg(long)]
    digests: bool,
    /// Show ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Show only what matches, as KEY=VALUE; see below
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `json`, or a template; see below
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["quiet", "output"])]
    format: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Only images of this name; the same as --filter reference=
    #[arg(value_name = "NAME[:TAG]")]
    reference: Option<String>,
}

/// An image and, where they are needed, the parts of its configuration.
struct Listed {
    image: Image,
    config: Config,
}

#[derive(Default)]
struct Config {
    /// Nanoseconds since 1970; 0 when the image does not say it.
    created_at: i64,
    labels: Value,
}

impl Images {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let format = RowFormat::parse(self.format.as_deref())?;
        let reference = self.reference.iter().map(|name| format!("reference={name}"));
        let texts: Vec<String> = self.filter.iter().cloned().chain(reference).collect();
        let filters = Filters::parse(&texts, &FILTERS)?;
        filters.check("dangling", &["true", "false"])?;
        let request = ListImagesRequest::default();
        let mut images = client.images.list_images(request).await.map_err(refused)?.into_inner().images;
        images.retain(|image| is_named(image, &filters));
        images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
        let is_more_needed =
            self.format.is_some() || ["label", "before", "since", "until"].iter().any(|key| filters.has(key));
        let times = Times::load(&mut client, &filters).await?;
        let mut listed = Vec::new();
        for image in images {
            let config = match is_more_needed {
                true => config(&mut client, &image.id).await?.unwrap_or_default(),
                false => Config::default(),
            };
            if times.include(config.created_at) && has_labels(&config, &filters) {
                listed.push(Listed { image, config });
            }
        }
        self.print(&format, &listed, &filters)
    }

    fn print(&self, format: &RowFormat, listed: &[Listed], filters: &Filters) -> anyhow::Result<ExitCode> {
        let images = || listed.iter().map(|listed| &listed.image);
        if self.output.print(|| Ok(json!({ "images": json::list(images())? })))? {
            return Ok(ExitCode::SUCCESS);
        }
        if self.quiet {
            images().try_for_each(|image| writeln!(std::io::stdout(), "{}", self.id(image)))?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<Value> = listed.iter().flat_map(|listed| self.rows(listed, filters)).collect();
        format.print(&rows, || self.table(&rows))?;
        Ok(ExitCode::SUCCESS)
    }

    fn id(&self, image: &Image) -> String {
        if self.no_trunc { image.id.clone() } else { short(&image.id) }
    }

    /// One for each name that matches.
    fn rows(&self, Listed { image, config }: &Listed, filters: &Filters) -> Vec<Value> {
        let is_meant = |(name, tag): &(&str, &str)| {
            filters.any("reference", |wanted| reference_matches(name, tag, wanted))
        };
        let created = config.created_at;
        let row = |(name, tag): (&str, &str)| {
            json!({
                "Repository": name,
                "Tag": tag,
                "Digest": digest(image, name),
                "ID": self.id(image),
                "CreatedAt": time::shown(created),
                "CreatedSince": if created == 0 { String::new() } else { ago(created, clock::now()) },
                "Size": size(image.size),
            })
        };
        names(image).into_iter().filter(is_meant).map(row).collect()
    }

    fn table(&self, rows: &[Value]) -> Table {
        let mut columns = vec![("IMAGE", "Repository"), ("TAG", "Tag"), ("IMAGE ID", "ID"), ("SIZE", "Size")];
        if self.digests {
            columns.insert(2, ("DIGEST", "Digest"));
        }
        let mut table = Table::new(&columns.iter().map(|(heading, _)| *heading).collect::<Vec<_>>());
        let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
        rows.iter().for_each(|row| table.row(columns.iter().map(|(_, field)| text(row, field)).collect()));
        table
    }
}

/// The times of the filters.
struct Times {
    before: Vec<i64>,
    since: Vec<i64>,
}

impl Times {
    async fn load(client: &mut Client, filters: &Filters) -> anyhow::Result<Self> {
        let mut times = Self { before: Vec::new(), since: Vec::new() };
        for (key, list) in [("before", &mut times.before), ("since", &mut times.since)] {
            for name in filters.values(key) {
                let config = config(client, name).await?;
                list.push(
                    config.with_context(|| format!("--filter {key}={name}: no such image"))?.created_at,
                );
            }
        }
        for text in filters.values("until") {
            times.before.push(time::moment("--filter until", text)?);
        }
        Ok(times)
    }

    fn include(&self, created_at: i64) -> bool {
        self.before.iter().all(|at| created_at < *at) && self.since.iter().all(|at| created_at > *at)
    }
}

/// The configuration of an image; None when there is no such image.
async fn config(client: &mut Client, image: &str) -> anyhow::Result<Option<Config>> {
    let image = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
    let request = ImageStatusRequest { image, verbose: true };
    let reply = client.images.image_status(request).await.map_err(refused)?.into_inner();
    let info = json::info(&reply.info);
    let spec = &info["info"]["imageSpec"];
    Ok(reply.image.map(|_| Config {
        created_at: spec["created"].as_str().and_then(time::parse).unwrap_or_default(),
        labels: spec["config"]["Labels"].clone(),
    }))
}

fn is_named(image: &Image, filters: &Filters) -> bool {
    let is_dangling = if image.repo_tags.is_empty() { "true" } else { "false" };
    let is_meant = |wanted: &str| names(image).iter().any(|(name, tag)| reference_matches(name, tag, wanted));
    filters.any("dangling", |wanted| wanted == is_dangling) && filters.any("reference", is_meant)
}

fn has_labels(config: &Config, filters: &Filters) -> bool {
    let labels = config.labels.as_object().into_iter().flatten();
    let labels: std::collections::BTreeMap<&str, String> =
        labels.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default().to_owned())).collect();
    filters.labels(|key| labels.get(key))
}

/// Repository and tag of each of its names; an image without a tag has one row too.
fn names(image: &Image) -> Vec<(&str, &str)> {
    if image.repo_tags.is_empty() {
        let name =
            image.repo_digests.first().and_then(|d| d.split_once('@')).map_or("<none>", |(name, _)| name);
        return vec![(name, "<none>")];
    }
    image.repo_tags.iter().map(|tag| tag.rsplit_once(':').unwrap_or((tag, "<none>"))).collect()
}

fn digest<'a>(image: &'a Image, name: &str) -> &'a str {
    let mut digests = image.repo_digests.iter().filter_map(|d| d.split_once('@'));
    digests.find(|(repository, _)| *repository == name).map_or("<none>", |(_, digest)| digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_port_is_no_tag_and_untagged_images_are_shown() {
        let digests = vec!["h:5000/a@sha256:1".to_owned()];
        let tagged =
            Image { repo_tags: vec!["h:5000/a:1".into()], repo_digests: digests.clone(), ..Image::default() };
        assert_eq!(names(&tagged), [("h:5000/a", "1")]);
        assert_eq!(digest(&tagged, "h:5000/a"), "sha256:1");
        assert_eq!(names(&Image { repo_digests: digests, ..Image::default() }), [("h:5000/a", "<none>")]);
        assert_eq!(names(&Image::default()), [("<none>", "<none>")]);
    }

    #[test]
    fn filters_are_of_names_times_and_labels() {
        let filters = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            Filters::parse(&texts, &FILTERS).unwrap()
        };
        let tagged = Image { repo_tags: vec!["docker.io/library/a:1".into()], ..Image::default() };
        for (texts, tagged_is, other_is) in [
            (&["dangling=true"][..], false, true),
            (&["dangling=false"], true, false),
            (&["reference=a"], true, false),
            (&["reference=a:2"], false, false),
            (&[], true, true),
        ] {
            let filters = filters(texts);
            assert_eq!(is_named(&tagged, &filters), tagged_is, "{texts:?}");
            assert_eq!(is_named(&Image::default(), &filters), other_is, "{texts:?}");
        }
        let times = Times { before: vec![10], since: vec![5] };
        assert_eq!([4, 5, 6, 9, 10].map(|at| times.include(at)), [false, false, true, true, false]);
        let config = Config { labels: json!({ "app": "x" }), ..Config::default() };
        assert!(
            has_labels(&config, &filters(&["label=app=x"])) && !has_labels(&config, &filters(&["label=b"]))
        );
    }
}
