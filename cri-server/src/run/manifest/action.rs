//! Actions on a container from outside: probes and lifecycle hooks.

use std::time::Duration;

use super::strict_object::Object;

/// An action on a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Runs a command in it.
    Exec(Vec<String>),
    /// Sends an HTTP request to it.
    Http(HttpGet),
    /// Opens a connection to it.
    Tcp { host: Option<String>, port: PortRef },
    /// Calls `grpc.health.v1.Health/Check`.
    Grpc { port: u16, service: String },
    /// Only waits.
    Sleep(Duration),
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGet {
    pub host: Option<String>,
    pub port: PortRef,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// A port by number, or by its name in `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRef {
    Number(u16),
    Name(String),
}

/// The rules by which a container counts as started, healthy or ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub action: Action,
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub successes: u32,
    pub failures: u32,
    /// Seconds between the stop signal and SIGKILL, instead of the pod's.
    pub grace: Option<u32>,
}

/// The kind of a probe; the kinds have different rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// The field's name.
    pub fn field(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
        }
    }
}

/// Reads a probe.
pub fn read_probe(container: &Object<'_>, kind: ProbeKind) -> Option<Probe> {
    let object = container.object(kind.field())?;
    let seconds = |name, least: u32, usual: u32| {
        let found: u32 = object.number(name).filter(|seconds| *seconds != 0 || least == 0).unwrap_or(usual);
        Duration::from_secs(found.into())
    };
    let count = |name, usual| object.number::<u32>(name).filter(|count| *count != 0).unwrap_or(usual);
    let action = read_action(&object, &["exec", "httpGet", "tcpSocket", "grpc"]);
    let successes = count("successThreshold", 1);
    if successes != 1 && kind != ProbeKind::Readiness {
        object.refuse("successThreshold", format_args!("must be 1 in a {}", kind.field()));
    }
    let grace = object.number::<u32>("terminationGracePeriodSeconds");
    if grace.is_some() && kind == ProbeKind::Readiness {
        object.refuse("terminationGracePeriodSeconds", "has no meaning in a readinessProbe");
    }
    if grace == Some(0) {
        object.refuse("terminationGracePeriodSeconds", "must be at least 1");
    }
    let probe = Probe {
        action: action.unwrap_or(Action::Sleep(Duration::ZERO)),
        initial_delay: seconds("initialDelaySeconds", 0, 0),
        period: seconds("periodSeconds", 1, 10),
        timeout: seconds("timeoutSeconds", 1, 1),
        successes,
        failures: count("failureThreshold", 3),
        grace,
    };
    object.finish();
    Some(probe)
}

/// `lifecycle` of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifecycle {
    /// Runs after the start; a failure ends the container.
    pub post_start: Option<Action>,
    /// Runs before the stop signal, within the grace period.
    pub pre_stop: Option<Action>,
    /// Replaces the image's stop signal; by name.
    pub stop_signal: Option<String>,
}

/// Reads `lifecycle`.
pub fn read_lifecycle(container: &Object<'_>) -> Lifecycle {
    let Some(object) = container.object("lifecycle") else { return Lifecycle::default() };
    let hook = |name| {
        let hook = object.object(name)?;
        if hook.has("tcpSocket") {
            hook.refuse("tcpSocket", "not supported: Kubernetes has deprecated it in a hook");
        }
        let action = read_action(&hook, &["exec", "httpGet", "sleep"]);
        hook.finish();
        action
    };
    let lifecycle = Lifecycle {
        post_start: hook("postStart"),
        pre_stop: hook("preStop"),
        stop_signal: stop_signal(&object),
    };
    object.finish();
    lifecycle
}

/// Names without `SIG`.
const SIGNALS: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

fn stop_signal(object: &Object<'_>) -> Option<String> {
    let name = object.string("stopSignal")?;
    let real_time = |rest: &str, sign: char, most: u8| {
        let number = rest.strip_prefix(sign).and_then(|number| number.parse::<u8>().ok());
        rest.is_empty() || number.is_some_and(|number| (1..=most).contains(&number))
    };
    let known = name.strip_prefix("SIG").is_some_and(|name| {
        SIGNALS.contains(&name)
            || name.strip_prefix("RTMIN").is_some_and(|rest| real_time(rest, '+', 15))
            || name.strip_prefix("RTMAX").is_some_and(|rest| real_time(rest, '-', 14))
    });
    if !known {
        object.refuse("stopSignal", format_args!("{name:?} is no signal, as in SIGTERM or SIGRTMIN+3"));
    }
    Some(name).filter(|_| known)
}

/// Reads the one action; `possible` lists those that are allowed there.
fn read_action(object: &Object<'_>, possible: &[&str]) -> Option<Action> {
    let actions: Vec<&str> = possible.iter().copied().filter(|name| object.value(name).is_some()).collect();
    let [one] = actions[..] else {
        object.refuse("", format_args!("needs exactly one of {}", possible.join(", ")));
        return None;
    };
    let action = object.object(one)?;
    let read = match one {
        "exec" => {
            let command = action.strings("command").unwrap_or_default();
            if command.is_empty() {
                action.refuse("command", "is required");
            }
            Some(Action::Exec(command))
        }
        "httpGet" => http_get(&action).map(Action::Http),
        "tcpSocket" => {
            let host = action.string("host").filter(|host| !host.is_empty());
            port(&action).map(|port| Action::Tcp { host, port })
        }
        "grpc" => {
            let service = action.string("service").unwrap_or_default();
            if action.value("port").is_none() {
                action.refuse("port", "is required");
            }
            action.number("port").map(|port| Action::Grpc { port, service })
        }
        _ => Some(Action::Sleep(Duration::from_secs(action.number::<u32>("seconds").unwrap_or(0).into()))),
    };
    action.finish();
    read
}

fn http_get(object: &Object<'_>) -> Option<HttpGet> {
    let header = |header: Object<'_>| {
        let (name, value) = (header.required("name"), header.string("value").unwrap_or_default());
        header.finish();
        let name = name?;
        let plain = |text: &str| text.bytes().all(|b| b >= b' ' && b != 0x7f || b == b'\t');
        if !plain(&name) || name.contains([':', ' ']) || !plain(&value) {
            header.refuse("name", "is no header that HTTP can carry");
            return None;
        }
        Some((name, value))
    };
    let headers = object.objects("httpHeaders").into_iter().filter_map(header).collect();
    let path = object.string("path").filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
    if path.bytes().any(|b| b <= b' ' || b == 0x7f) {
        object.refuse("path", "has a space or a control character in it");
    }
    if object.string("scheme").is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http")) {
        object.refuse("scheme", "only HTTP is supported by crisp run yet");
    }
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let host = object.string("host").filter(|host| !host.is_empty());
    Some(HttpGet { host, port: port(object)?, path, headers })
}

fn port(object: &Object<'_>) -> Option<PortRef> {
    let number = |number: u64| u16::try_from(number).ok().filter(|port| *port != 0).map(PortRef::Number);
    let port = match object.value("port") {
        Some(serde_json::Value::Number(value)) => value.as_u64().and_then(number),
        Some(serde_json::Value::String(text)) => match text.parse() {
            Ok(value) => number(value),
            Err(_) => Some(PortRef::Name(text.clone())).filter(|_| !text.is_empty()),
        },
        Some(_) => None,
        None => {
            object.refuse("port", "is required");
            return None;
        }
    };
    if port.is_none() {
        object.refuse("port", "expected a port's number from 1 to 65535, or its name in ports");
    }
    port
}
