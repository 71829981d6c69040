//! Templates of `--format`, in the part of Go's text/template that users of container tools need.
//!
//! ```text
//!   {{.State.Status}}   {{json .}}   {{.ID}}\t{{.Names}}   {{range .Mounts}}{{.Source}} {{end}}
//!   {{if .State.Running}}up{{else}}down{{end}}   {{index .Labels "app"}}   {{len .Mounts}}   {{upper .Name}}
//!   {{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}
//! ```
//!
//! An unknown field is an error that lists the known ones.

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;

/// Depth of nested blocks.
const MAX_DEPTH: usize = 32;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Print(Call),
    If(Call, Vec<Part>, Vec<Part>),
    Range(Call, Vec<Part>),
}

/// `FUNCTION ARGUMENT...`, or one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    function: Option<Function>,
    arguments: Vec<Argument>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Json,
    Index,
    Len,
    Upper,
    Lower,
    Join,
    Eq,
    Not,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Argument {
    /// A path from the shown value; empty for the value itself.
    Field(Vec<String>),
    Literal(Value),
    /// A call in parentheses, and a path from its result.
    Nested(Box<Call>, Vec<String>),
}

impl Template {
    /// Parses a template. `\t` and `
    /// ` in its text are a tab and a newline.
    ///
    /// # Errors
    /// The template is not valid; the error gives the place.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut rest = text;
        let (parts, end) = parse_parts(&mut rest, 0).with_context(|| format!("template {text:?}"))?;
        match end {
            PartsEnd::Text => Ok(Self(parts)),
            PartsEnd::Else | PartsEnd::ElseIf(_) | PartsEnd::End => {
                bail!("template {text:?}: {{{{end}}}} or {{{{else}}}} without a block")
            }
        }
    }

    /// Renders a value.
    ///
    /// # Errors
    /// A field that the value does not have.
    pub fn render(&self, value: &Value) -> anyhow::Result<String> {
        let mut out = String::new();
        render(&self.0, value, &mut out)?;
        Ok(out)
    }

    /// Splits the template at its tabs into columns, each with the name of its first field; empty for none.
    pub fn columns(&self) -> Vec<(String, Self)> {
        let mut columns = vec![Vec::new()];
        for part in &self.0 {
            let Part::Text(text) = part else {
                columns.last_mut().into_iter().for_each(|column| column.push(part.clone()));
                continue;
            };
            for (index, piece) in text.split('\t').enumerate() {
                if index > 0 {
                    columns.push(Vec::new());
                }
                let column = columns.last_mut().filter(|_| !piece.is_empty());
                column.into_iter().for_each(|column| column.push(Part::Text(piece.to_owned())));
            }
        }
        columns
            .into_iter()
            .map(|parts| (parts.iter().find_map(name).unwrap_or_default(), Self(parts)))
            .collect()
    }
}

/// The name of the field that a part shows or depends on.
fn name(part: &Part) -> Option<String> {
    let call = match part {
        Part::Text(_) => return None,
        Part::Print(call) | Part::If(call, ..) | Part::Range(call, _) => call,
    };
    call.arguments.iter().find_map(|argument| match argument {
        Argument::Field(names) | Argument::Nested(_, names) => names.last().cloned(),
        Argument::Literal(_) => None,
    })
}

/// The end of a list of parts.
#[derive(Debug, PartialEq, Eq)]
enum PartsEnd {
    Text,
    Else,
    /// With the words of the next condition.
    ElseIf(Vec<String>),
    End,
}

fn parse_parts(rest: &mut &str, depth: usize) -> anyhow::Result<(Vec<Part>, PartsEnd)> {
    if depth > MAX_DEPTH {
        bail!("more than {MAX_DEPTH} blocks inside each other");
    }
    let mut parts = Vec::new();
    loop {
        let Some((text, after)) = rest.split_once("{{") else {
            push_text(&mut parts, rest);
            return Ok((parts, PartsEnd::Text));
        };
        let (action, after) =
            after.split_once("}}").with_context(|| format!("{{{{{after} has no end: expected }}}}"))?;
        push_text(&mut parts, if action.starts_with("- ") { text.trim_end() } else { text });
        *rest = if action.ends_with(" -") { after.trim_start() } else { after };
        let words = words(action.trim_start_matches("- ").trim_end_matches(" -").trim())?;
        match words.first().map(String::as_str) {
            Some("end") if words.len() == 1 => return Ok((parts, PartsEnd::End)),
            Some("else") if words.len() == 1 => return Ok((parts, PartsEnd::Else)),
            Some("else") if words.get(1).is_some_and(|word| word == "if") => {
                return Ok((parts, PartsEnd::ElseIf(words[2..].to_vec())));
            }
            Some("else" | "end") => bail!("{action:?}: expected only else, else if or end"),
            Some("if") => parts.push(parse_if(&words[1..], rest, depth)?),
            Some("range") => {
                let (body, end) = parse_parts(rest, depth + 1)?;
                if end != PartsEnd::End {
                    bail!("{{{{range}}}} without {{{{end}}}}");
                }
                parts.push(Part::Range(call(&words[1..])?, body));
            }
            _ => parts.push(Part::Print(call(&words)?)),
        }
    }
}

fn parse_if(words: &[String], rest: &mut &str, depth: usize) -> anyhow::Result<Part> {
    let condition = call(words)?;
    let (then, mut end) = parse_parts(rest, depth + 1)?;
    let mut otherwise = Vec::new();
    if let PartsEnd::ElseIf(words) = end {
        // One `end` closes both.
        return Ok(Part::If(condition, then, vec![parse_if(&words, rest, depth + 1)?]));
    }
    if end == PartsEnd::Else {
        (otherwise, end) = parse_parts(rest, depth + 1)?;
    }
    if end != PartsEnd::End {
        bail!("{{{{if}}}} without {{{{end}}}}");
    }
    Ok(Part::If(condition, then, otherwise))
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.replace("\\t", "\t").replace("\\n", "\n")));
    }
}

/// The words of an action; a string is one word, with its quotes.
fn words(action: &str) -> anyhow::Result<Vec<String>> {
    let (mut words, mut rest) = (Vec::new(), action.trim());
    while !rest.is_empty() {
        let end = match rest.chars().next() {
            Some('`') => rest[1..].find('`').map(|end| end + 2).context("a string without its end")?,
            Some('"') => string_end(rest).context("a string without its end")?,
            Some('(') => {
                let end = group_end(rest)?;
                end + rest[end..].find(char::is_whitespace).unwrap_or(rest.len() - end)
            }
            _ => rest.find(char::is_whitespace).unwrap_or(rest.len()),
        };
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    Ok(words)
}

/// The end of a group that begins with a parenthesis. Those in strings do not count.
fn group_end(text: &str) -> anyhow::Result<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return Ok(at + 1),
            ')' => depth -= 1,
            '"' => at += string_end(&text[at..]).context("a string without its end")? - 1,
            '`' => at += text[at + 1..].find('`').context("a string without its end")? + 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            bail!("more than {MAX_DEPTH} parentheses inside each other");
        }
        at += text[at..].chars().next().map_or(1, char::len_utf8);
    }
    bail!("{text:?}: a parenthesis is not closed")
}

/// The end of a string that begins with a quote; a quote after a backslash is part of the string.
fn string_end(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().skip(1).find_map(|(at, c)| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end.then_some(at + 1)
    })
}

/// A string as Go writes it between quotes.
fn unescape(text: &str) -> anyhow::Result<String> {
    let (mut out, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(same @ ('\\' | '"' | '\'')) => same,
                other => bail!("string {text:?}: there are \\n, \\t, \\r, \\\\ and \\\", not {other:?}"),
            },
            c => c,
        });
    }
    Ok(out)
}

fn call(words: &[String]) -> anyhow::Result<Call> {
    let Some(first) = words.first() else { bail!("nothing between {{{{ and }}}}") };
    let function = match first.as_str() {
        "json" => Some(Function::Json),
        "index" => Some(Function::Index),
        "len" => Some(Function::Len),
        "upper" => Some(Function::Upper),
        "lower" => Some(Function::Lower),
        "join" => Some(Function::Join),
        "eq" => Some(Function::Eq),
        "not" => Some(Function::Not),
        word if word.starts_with(['.', '"', '`', '$', '(']) || word.parse::<f64>().is_ok() => None,
        word => bail!(
            "{word:?} is not a function: there are json, index, len, upper, lower, join, eq, not, if, else, range and end"
        ),
    };
    let arguments = words.iter().skip(usize::from(function.is_some())).map(|word| argument(word));
    let arguments = arguments.collect::<anyhow::Result<Vec<_>>>()?;
    if arguments.is_empty() || (function.is_none() && arguments.len() > 1) {
        bail!("{:?}: expected a field such as .Name", words.join(" "));
    }
    Ok(Call { function, arguments })
}

fn argument(word: &str) -> anyhow::Result<Argument> {
    let path = |text: &str| text.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if let Some(names) = word.strip_prefix('.') {
        return Ok(Argument::Field(path(names)));
    }
    if word.starts_with('(') {
        let (group, names) = word.split_at(group_end(word)?);
        if !(names.is_empty() || names.starts_with('.')) {
            bail!("{word:?}: after a parenthesis only a field such as .Name can follow");
        }
        let inner = call(&words(&group[1..group.len() - 1])?)?;
        return Ok(Argument::Nested(Box::new(inner), path(names)));
    }
    let raw = word.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).map(str::to_owned);
    let quoted = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map(unescape).transpose()?;
    let literal = raw.or(quoted).map(Value::String);
    let number = || word.parse::<i64>().ok().map(Value::from);
    let literal = literal.or_else(number).with_context(|| format!("{word:?} is no field, string or number"));
    Ok(Argument::Literal(literal?))
}

fn render(parts: &[Part], value: &Value, out: &mut String) -> anyhow::Result<()> {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Print(call) => out.push_str(&plain(&evaluate(call, value)?)),
            Part::If(condition, then, otherwise) => {
                let branch = if is_true(&evaluate(condition, value)?) { then } else { otherwise };
                render(branch, value, out)?;
            }
            Part::Range(call, body) => match evaluate(call, value)? {
                Value::Array(items) => items.iter().try_for_each(|item| render(body, item, out))?,
                Value::Object(items) => items.values().try_for_each(|item| render(body, item, out))?,
                Value::Null => {}
                other => bail!("range: {other} is no list"),
            },
        }
    }
    Ok(())
}

fn evaluate(call: &Call, value: &Value) -> anyhow::Result<Value> {
    let arguments = call.arguments.iter().map(|argument| match argument {
        Argument::Field(names) => field(value, names),
        Argument::Literal(literal) => Ok(literal.clone()),
        Argument::Nested(call, names) => field(&evaluate(call, value)?, names),
    });
    let arguments = arguments.collect::<anyhow::Result<Vec<_>>>()?;
    let text = || plain(&arguments[0]);
    Ok(match call.function {
        None => arguments[0].clone(),
        Some(Function::Json) => Value::String(arguments[0].to_string()),
        Some(Function::Index) => arguments[1..].iter().try_fold(arguments[0].clone(), index)?,
        Some(Function::Len) => Value::from(length(&arguments[0])?),
        Some(Function::Upper) => Value::String(text().to_uppercase()),
        Some(Function::Lower) => Value::String(text().to_lowercase()),
        Some(Function::Join) => Value::String(join(&arguments)?),
        Some(Function::Eq) => Value::Bool(arguments[1..].contains(&arguments[0])),
        Some(Function::Not) => Value::Bool(!is_true(&arguments[0])),
    })
}

fn field(value: &Value, names: &[String]) -> anyhow::Result<Value> {
    let mut found = value;
    for name in names {
        found = match found {
            Value::Object(fields) => fields.get(name).ok_or_else(|| {
                let known: Vec<_> = fields.keys().map(String::as_str).collect();
                anyhow!("there is no .{name}; there are {}", known.join(", "))
            })?,
            Value::Null => return Ok(Value::Null),
            other => bail!(".{name}: {other} has no fields"),
        };
    }
    Ok(found.clone())
}

fn index(of: Value, by: &Value) -> anyhow::Result<Value> {
    Ok(match (&of, by) {
        // As Go does for a map of strings, such as labels and annotations.
        (Value::Object(fields), Value::String(name)) if fields.values().all(Value::is_string) => {
            Value::String(fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned())
        }
        (Value::Object(fields), Value::String(name)) => fields.get(name).cloned().unwrap_or(Value::Null),
        (Value::Array(items), Value::Number(number)) => {
            let at = number.as_u64().and_then(|at| usize::try_from(at).ok()).and_then(|at| items.get(at));
            at.cloned().with_context(|| format!("index {number}: there are {} elements", items.len()))?
        }
        (Value::Null, _) => Value::Null,
        _ => bail!("index {by}: {of} has no such elements"),
    })
}

fn length(value: &Value) -> anyhow::Result<usize> {
    Ok(match value {
        Value::Null => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        other => bail!("len: {other} has no length"),
    })
}

fn join(arguments: &[Value]) -> anyhow::Result<String> {
    let separator = arguments.get(1).map(plain).unwrap_or_default();
    match &arguments[0] {
        Value::Array(items) => Ok(items.iter().map(plain).collect::<Vec<_>>().join(&separator)),
        Value::Null => Ok(String::new()),
        other => bail!("join: {other} is no list"),
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// As Go prints values: a list in brackets, a map as `map[key:value]`.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{key}:{}", plain(value)));
            format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(template: &str) -> anyhow::Result<String> {
        let value = json!({
            "ID": "abc", "Names": "web", "State": {"Running": true, "Pid": 7}, "Args": ["a", "b"],
            "Labels": {"app": "x"}, "None": null, "Maps": {"a)b": {"Pid": 9}},
        });
        Template::parse(template)?.render(&value)
    }

    #[test]
    fn fields_functions_and_blocks() {
        for (template, expected) in [
            ("{{.ID}}\\t{{ .Names }}", "abc\tweb"),
            ("{{.State.Pid}}", "7"),
            ("{{json .State}}", r#"{"Pid":7,"Running":true}"#),
            ("{{index .Labels \"app\"}}{{index .Args 1}}", "xb"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if not .State.Running}}up{{else}}down{{end}}", "down"),
            ("{{if eq .Names \"web\"}}yes{{end}}", "yes"),
            ("{{range .Args}}<{{.}}>{{end}}", "<a><b>"),
            ("{{len .Args}} {{upper .Names}} {{join .Args \",\"}}", "2 WEB a,b"),
            ("{{.Args}} {{.Labels}} {{.None}}", "[a b] map[app:x] <no value>"),
            ("a {{- .ID -}} b", "aabcb"),
            ("{{if not .ID}}x{{else if .None}}y{{else if .Names}}z{{else}}w{{end}}!", "z!"),
            ("{{if not .ID}}x{{else if .None}}y{{end}}!", "!"),
            ("{{range .Args}}{{.}}{{\"\\n\"}}{{end}}", "a\nb\n"),
            ("{{join .Args \"\\t\\\"\"}} {{join .Args `\\n`}}", "a\t\"b a\\nb"),
            ("<{{index .Labels \"none\"}}>", "<>"),
            ("plain", "plain"),
            ("{{(index .Args 1)}}{{(index .Maps \"a)b\").Pid}}", "b9"),
            ("{{index (index .Maps `a)b`) \"Pid\"}}{{if eq (len .Args) 2}}!{{end}}", "9!"),
            ("{{(index .Maps \"none\").Pid}}", "<no value>"),
        ] {
            assert_eq!(made(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (template, word) in [
            ("{{.Nmaes}}", "Names"),
            ("{{.ID", "no end"),
            ("{{}}", "nothing"),
            ("{{if .ID}}x", "without"),
            ("{{end}}", "without a block"),
            ("{{frobnicate .ID}}", "frobnicate"),
            ("{{.ID.Deep}}", "no fields"),
            ("{{range .ID}}{{end}}", "no list"),
            ("{{if .ID}}x{{else .None}}y{{end}}", "else"),
            ("{{if .ID}}x{{end if}}", "end"),
            ("{{\"\\x\"}}", "string"),
            ("{{\"a}}", "string without its end"),
            ("{{(index .Args 1}}", "not closed"),
            ("{{(index .Args 1)x}}", "after a parenthesis"),
            ("{{()}}", "nothing"),
        ] {
            let error = format!("{:#}", made(template).unwrap_err());
            assert!(error.contains(word), "{template}: {error}");
        }
        assert!(Template::parse(&"{{if .ID}}".repeat(100)).is_err());
        assert!(Template::parse(&format!("{{{{{}", "(".repeat(100) + &")".repeat(100) + "}}")).is_err());
    }

    #[test]
    fn headings_are_the_names_of_the_fields() {
        let template = Template::parse("{{.ID}}\\t{{if .State}}up{{end}} {{.A.B}}\\ttext\\t").unwrap();
        let headings: Vec<String> = template.columns().into_iter().map(|(heading, _)| heading).collect();
        assert_eq!(headings, ["ID", "State", "", ""]);
    }
}
