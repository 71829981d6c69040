//! Resolver settings and lines of the hosts file.

use super::strict_object::Object;

/// Additions to the resolver settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A line of the hosts file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    pub ip: String,
    pub names: Vec<String>,
}

/// Reads `dnsConfig`.
pub fn read_dns(spec: &Object<'_>) -> Dns {
    let Some(object) = spec.object("dnsConfig") else { return Dns::default() };
    let option = |option: Object<'_>| {
        let (name, value) = (option.required("name"), option.string("value"));
        option.finish();
        let name = name?;
        Some(value.map_or(name.clone(), |value| format!("{name}:{value}")))
    };
    let dns = Dns {
        servers: object.strings("nameservers").unwrap_or_default(),
        searches: object.strings("searches").unwrap_or_default(),
        options: object.objects("options").into_iter().filter_map(option).collect(),
    };
    object.finish();
    for server in &dns.servers {
        if server.parse::<std::net::IpAddr>().is_err() {
            object.refuse("nameservers", format_args!("{server:?} is not an IP address"));
        }
    }
    dns
}

/// Reads `hostAliases`.
pub fn read_host_aliases(spec: &Object<'_>) -> Vec<HostAlias> {
    let alias = |alias: Object<'_>| {
        let (ip, names) = (alias.required("ip"), alias.strings("hostnames").unwrap_or_default());
        alias.finish();
        let ip = ip?;
        if ip.parse::<std::net::IpAddr>().is_err() {
            alias.refuse("ip", format_args!("{ip:?} is not an IP address"));
        }
        Some(HostAlias { ip, names })
    };
    spec.objects("hostAliases").into_iter().filter_map(alias).collect()
}
