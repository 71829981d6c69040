//! Makes CNI configurations from a template and the node's pod CIDR, in containerd's form: the part of Go's
//! text/template that such templates use.
//!
//! ```text
//! {{.PodCIDR}}                                        the first network
//! {{range $i, $range := .PodCIDRRanges}} ... {{end}}   each network; also {{range .PodCIDRRanges}} {{.}} {{end}}
//! {{range .Routes}} ... {{end}}                        0.0.0.0/0, ::/0: those of the families there are
//! {{if $i}} ... {{else}} ... {{end}}                   not 0, not empty
//! ```

use ipnet::IpNet;

/// The values that a template can use.
#[derive(Debug, Clone)]
pub(super) struct Values {
    ranges: Vec<String>,
    routes: Vec<String>,
}

impl Values {
    pub(super) fn of(networks: &[IpNet]) -> Self {
        let route = |network: &IpNet| if network.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        Self {
            ranges: networks.iter().map(ToString::to_string).collect(),
            routes: networks.iter().map(|network| route(network).to_owned()).collect(),
        }
    }
}

/// Fills the template in.
///
/// # Errors
/// The line and the action that is not valid.
pub(super) fn render(template: &str, values: &Values) -> Result<String, String> {
    let mut tokens = tokens(template)?.into_iter().peekable();
    let nodes = parse(&mut tokens, false)?.0;
    let mut text = String::new();
    let mut scope = Scope { values, variables: Vec::new(), dot: None };
    write(&nodes, &mut scope, &mut text)?;
    Ok(text)
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Text(String),
    /// Its words and its line.
    Action(Vec<String>, usize),
}

#[derive(Debug)]
enum Node {
    Text(String),
    Value(String, usize),
    Range { variables: Vec<String>, list: String, line: usize, body: Vec<Node>, otherwise: Vec<Node> },
    If { condition: String, line: usize, body: Vec<Node>, otherwise: Vec<Node> },
}

fn tokens(template: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut rest, mut trim) = (Vec::new(), template, false);
    while let Some((text, after)) = rest.split_once("{{") {
        let line = template[..template.len() - after.len()].lines().count();
        let (action, after) =
            after.split_once("}}").ok_or(format!("line {line}: \"{{{{\" without \"}}}}\""))?;
        let text = if trim { text.trim_start() } else { text };
        // `{{-` and `-}}` remove the spaces beside them.
        let text = if action.starts_with('-') { text.trim_end() } else { text };
        trim = action.ends_with('-');
        tokens.push(Token::Text(text.to_owned()));
        let action =
            action.trim_start_matches('-').trim_end_matches('-').replace(":=", " := ").replace(',', " , ");
        tokens.push(Token::Action(action.split_whitespace().map(str::to_owned).collect(), line));
        rest = after;
    }
    tokens.push(Token::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(tokens)
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

/// Nodes up to the end or, `inside` another, up to `{{else}}` (true) or `{{end}}`.
fn parse(tokens: &mut Tokens, inside: bool) -> Result<(Vec<Node>, bool), String> {
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next() {
        let (words, line) = match token {
            Token::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Token::Action(words, line) => (words, line),
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["end"] if inside => return Ok((nodes, false)),
            ["else"] if inside => return Ok((nodes, true)),
            ["if", condition] => {
                let (body, otherwise) = block(tokens)?;
                nodes.push(Node::If { condition: condition.to_owned(), line, body, otherwise });
            }
            ["range", ref head @ .., list] => {
                let variables = match head {
                    [] => vec![],
                    [value, ":="] => vec![(*value).to_owned()],
                    [index, ",", value, ":="] => vec![(*index).to_owned(), (*value).to_owned()],
                    _ => return Err(unknown(&words.join(" "), line)),
                };
                let (body, otherwise) = block(tokens)?;
                nodes.push(Node::Range { variables, list: list.to_owned(), line, body, otherwise });
            }
            [value] if value.starts_with(['.', '$']) => nodes.push(Node::Value(value.to_owned(), line)),
            _ => return Err(unknown(&words.join(" "), line)),
        }
    }
    if inside { Err("the end: {{end}} is missing".to_owned()) } else { Ok((nodes, false)) }
}

fn block(tokens: &mut Tokens) -> Result<(Vec<Node>, Vec<Node>), String> {
    let (body, has_else) = parse(tokens, true)?;
    let otherwise = if has_else { parse(tokens, true)?.0 } else { Vec::new() };
    Ok((body, otherwise))
}

fn unknown(action: &str, line: usize) -> String {
    format!(
        "line {line}: {{{{{action}}}}} is not understood: .PodCIDR, .PodCIDRRanges, .Routes, range, if, else, end and variables are"
    )
}

struct Scope<'v> {
    values: &'v Values,
    variables: Vec<(String, Value)>,
    /// The value of the innermost `range`.
    dot: Option<Value>,
}

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Number(usize),
    List(Vec<String>),
}

impl Scope<'_> {
    fn value(&self, name: &str, line: usize) -> Result<Value, String> {
        let variable =
            || self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, v)| v.clone());
        let value = match name {
            ".PodCIDR" => self.values.ranges.first().cloned().map(Value::Text),
            ".PodCIDRRanges" => Some(Value::List(self.values.ranges.clone())),
            ".Routes" => Some(Value::List(self.values.routes.clone())),
            "." => self.dot.clone(),
            _ => variable(),
        };
        value.ok_or_else(|| unknown(name, line))
    }
}

fn write(nodes: &[Node], scope: &mut Scope<'_>, to: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => to.push_str(text),
            Node::Value(name, line) => match scope.value(name, *line)? {
                Value::Text(text) => to.push_str(&text),
                Value::Number(number) => to.push_str(&number.to_string()),
                Value::List(_) => return Err(format!("line {line}: {name} is a list: use range")),
            },
            Node::If { condition, line, body, otherwise } => {
                let holds = match scope.value(condition, *line)? {
                    Value::Text(text) => !text.is_empty(),
                    Value::Number(number) => number != 0,
                    Value::List(list) => !list.is_empty(),
                };
                write(if holds { body } else { otherwise }, scope, to)?;
            }
            Node::Range { variables, list, line, body, otherwise } => match scope.value(list, *line)? {
                Value::List(list) if list.is_empty() => write(otherwise, scope, to)?,
                Value::List(list) => write_each(list, variables, body, scope, to)?,
                _ => return Err(format!("line {line}: {list} is not a list")),
            },
        }
    }
    Ok(())
}

fn write_each(
    list: Vec<String>,
    variables: &[String],
    body: &[Node],
    scope: &mut Scope<'_>,
    to: &mut String,
) -> Result<(), String> {
    let (known, dot) = (scope.variables.len(), scope.dot.clone());
    for (at, text) in list.into_iter().enumerate() {
        let value = Value::Text(text);
        scope.dot = Some(value.clone());
        match variables {
            [index, name] => {
                scope.variables.push((index.clone(), Value::Number(at)));
                scope.variables.push((name.clone(), value));
            }
            [name] => scope.variables.push((name.clone(), value)),
            _ => {}
        }
        write(body, scope, to)?;
        scope.variables.truncate(known);
    }
    scope.dot = dot;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, networks: &[&str]) -> Result<String, String> {
        let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
        render(template, &Values::of(&networks))
    }

    #[test]
    fn templates_of_containerd_users_are_filled_in() {
        let one = r#"{"subnet": "{{.PodCIDR}}"}"#;
        assert_eq!(filled(one, &["10.1.0.0/24"]).unwrap(), r#"{"subnet": "10.1.0.0/24"}"#);
        let ranges =
            r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]"#;
        assert_eq!(
            filled(ranges, &["10.1.0.0/24", "fd00::/64"]).unwrap(),
            r#"[[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]"#
        );
        let routes = "{{ range .Routes }}\n  {{- if . -}} <{{.}}> {{- end }}{{end}}!";
        assert_eq!(filled(routes, &["10.1.0.0/24", "fd00::/64"]).unwrap(), "<0.0.0.0/0><::/0>!");
        assert_eq!(
            filled("{{range $i, $r := .Routes}}{{if $i}},{{else}}:{{end}}{{$i}}{{end}}", &["fd00::/64"]),
            Ok(":0".into())
        );
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (template, expected) in [
            ("a\n{{.Nothing}}", "line 2: {{.Nothing}} is not understood"),
            ("{{printf \"x\"}}", "line 1: {{printf \"x\"}} is not understood"),
            ("{{range .Routes}}", "{{end}} is missing"),
            ("{{end}}", "line 1: {{end}} is not understood"),
            ("{{.PodCIDR", "line 1: \"{{\" without \"}}\""),
            ("{{.Routes}}", "line 1: .Routes is a list: use range"),
            ("{{range .PodCIDR}}{{end}}", "line 1: .PodCIDR is not a list"),
            ("{{$x}}", "{{$x}} is not understood"),
        ] {
            let error = filled(template, &["10.1.0.0/24"]).unwrap_err();
            assert!(error.contains(expected), "{template}: {error}");
        }
    }
}
