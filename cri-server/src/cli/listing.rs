//! The output of lists: a table, JSON, YAML, or a template for each row.

use std::io::Write as _;

use clap::ValueEnum;
use serde_json::Value;

use super::json;
use super::template::Template;
use super::yaml;
use crate::table::Table;

/// The output format of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Columns, for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON, for programs.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// Whether it shows a whole document.
    pub fn is_document(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }

    /// Prints a document. Returns true when this is a format for documents.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(self, document: impl FnOnce() -> anyhow::Result<Value>) -> anyhow::Result<bool> {
        match self {
            Self::Table | Self::Wide => return Ok(false),
            Self::Json => json::print(&document()?)?,
            Self::Yaml => write!(std::io::stdout().lock(), "{}", yaml::document(&document()?))?,
        }
        Ok(true)
    }
}

/// The value of `--format`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowFormat {
    /// The usual columns.
    Usual,
    /// One JSON object per line.
    Json,
    /// One line per row, by the template.
    Lines(Template),
    /// The same in columns with a heading.
    Columns(Template),
}

impl RowFormat {
    /// Parses `table`, `json`, `table TEMPLATE` or a template.
    ///
    /// # Errors
    /// The template is not valid.
    pub fn parse(text: Option<&str>) -> anyhow::Result<Self> {
        let Some(text) = text.map(str::trim) else { return Ok(Self::Usual) };
        Ok(match text.strip_prefix("table") {
            Some("") => Self::Usual,
            Some(template) if template.starts_with([' ', '\\', '\t']) => {
                let template = template.trim_start();
                Self::Columns(Template::parse(template.strip_prefix("\\t").unwrap_or(template))?)
            }
            _ if text == "json" => Self::Json,
            _ => Self::Lines(Template::parse(text)?),
        })
    }

    /// Prints the rows, which are objects. `usual` makes the usual table.
    ///
    /// # Errors
    /// The template names a field that the rows do not have, or standard output cannot be written.
    pub fn print(&self, rows: &[Value], usual: impl FnOnce() -> Table) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self {
            Self::Usual => usual().write(&mut out)?,
            Self::Json => rows.iter().try_for_each(|row| writeln!(out, "{row}"))?,
            Self::Lines(template) => {
                for row in rows {
                    writeln!(out, "{}", template.render(row)?)?;
                }
            }
            Self::Columns(template) => columns(template, rows)?.write(&mut out)?,
        }
        Ok(())
    }
}

fn columns(template: &Template, rows: &[Value]) -> anyhow::Result<Table> {
    let columns = template.columns();
    let headings: Vec<String> = columns.iter().map(|(name, _)| heading(name)).collect();
    let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        // Each cell is rendered separately: a value may contain a tab.
        let cells = columns.iter().map(|(_, cell)| Ok(cell.render(row)?.replace('\t', " ")));
        table.row(cells.collect::<anyhow::Result<_>>()?);
    }
    Ok(table)
}

/// `RunningFor` becomes `RUNNING FOR`.
fn heading(field: &str) -> String {
    let mut heading = String::new();
    let mut before = ' ';
    for c in field.chars() {
        if c.is_uppercase() && before.is_lowercase() {
            heading.push(' ');
        }
        heading.extend(c.to_uppercase());
        before = c;
    }
    heading
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_format_is_a_table_json_or_a_template() {
        assert_eq!(RowFormat::parse(None).unwrap(), RowFormat::Usual);
        assert_eq!(RowFormat::parse(Some("table")).unwrap(), RowFormat::Usual);
        assert_eq!(RowFormat::parse(Some("json")).unwrap(), RowFormat::Json);
        assert!(matches!(RowFormat::parse(Some("{{.ID}}")).unwrap(), RowFormat::Lines(_)));
        assert!(matches!(RowFormat::parse(Some("table {{.ID}}")).unwrap(), RowFormat::Columns(_)));
        assert!(matches!(RowFormat::parse(Some("tablets")).unwrap(), RowFormat::Lines(_)));
        assert!(RowFormat::parse(Some("{{.ID")).is_err());
    }

    #[test]
    fn columns_have_headings() {
        let template = Template::parse("{{.ID}}\\t{{.RunningFor}}").unwrap();
        let table = columns(&template, &[json!({"ID": "a", "RunningFor": "b c"})]).unwrap();
        let mut text = Vec::new();
        table.write(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "ID   RUNNING FOR\na    b c\n");
        let template = Template::parse("{{.ID}}\\t{{if .Up}}up{{end}}\\tx").unwrap();
        let table = columns(&template, &[json!({"ID": "a\tb", "Up": true})]).unwrap();
        let mut text = Vec::new();
        table.write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("a b") && text.contains("up") && text.trim_end().ends_with('x'), "{text}");
    }
}
