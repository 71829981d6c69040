//! The rights of the container, as `securityContext` of pod and container.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::options::Options;

/// The `securityContext` of the pod.
///
/// # Errors
/// A value is not valid; the error names its option.
pub fn of_pod(options: &Options) -> anyhow::Result<Value> {
    let group = |text: &String| {
        text.parse::<u32>().ok().with_context(|| {
            format!("--group-add {text:?}: a group must be a number: the CRI has no names of groups")
        })
    };
    let groups = options.group_add.iter().map(group).collect::<anyhow::Result<Vec<_>>>()?;
    let sysctl = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .with_context(|| format!("--sysctl {text:?}: expected NAME=VALUE"))?;
        Ok(json!({ "name": name, "value": value }))
    };
    let sysctls = options.security.sysctl.iter().map(sysctl).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(json!({ "supplementalGroups": groups, "sysctls": sysctls }))
}

/// The `securityContext` of the container.
///
/// # Errors
/// A value is not valid; the error names its option.
pub fn of_container(options: &Options) -> anyhow::Result<Value> {
    let security = &options.security;
    let mut context = json!({
        "privileged": security.privileged,
        "readOnlyRootFilesystem": security.read_only,
        "capabilities": {
            "add": capabilities("--cap-add", &security.cap_add)?,
            "drop": capabilities("--cap-drop", &security.cap_drop)?,
        },
    });
    if !security.privileged {
        // As with docker, and unlike kubelet, there is a default profile.
        context["seccompProfile"] = json!({ "type": "RuntimeDefault" });
    }
    let user = user(options)?;
    if let Some(id) = user.id {
        context["runAsUser"] = json!(id);
    }
    if let Some(group) = user.group {
        context["runAsGroup"] = json!(group);
    }
    for text in &security.security_opt {
        apply(&mut context, text).with_context(|| format!("--security-opt {text:?}"))?;
    }
    Ok(context)
}

fn capabilities(option: &str, names: &[String]) -> anyhow::Result<Vec<String>> {
    let name = |text: &String| {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
        {
            bail!("{option} {text:?} is not the name of a capability, as NET_ADMIN or ALL");
        }
        Ok(name.to_owned())
    };
    names.iter().map(name).collect()
}

fn apply(context: &mut Value, text: &str) -> anyhow::Result<()> {
    // docker accepts a colon too.
    let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    match (key, value) {
        ("no-new-privileges", "" | "true") => {
            if context["privileged"] == true {
                bail!("cannot be together with --privileged");
            }
            context["allowPrivilegeEscalation"] = json!(false);
        }
        ("no-new-privileges", "false") => {}
        ("seccomp", "unconfined") => context["seccompProfile"] = json!({ "type": "Unconfined" }),
        ("seccomp", "builtin") => context["seccompProfile"] = json!({ "type": "RuntimeDefault" }),
        ("seccomp", file) if !file.is_empty() => {
            let path = std::path::absolute(file)?;
            if !path.is_file() {
                bail!("there is no file {}", path.display());
            }
            context["seccompProfile"] = json!({ "type": "Localhost", "localhostProfile": path });
        }
        ("apparmor", "unconfined") => context["appArmorProfile"] = json!({ "type": "Unconfined" }),
        ("apparmor", name) if !name.is_empty() => {
            context["appArmorProfile"] = json!({ "type": "Localhost", "localhostProfile": name });
        }
        ("label", "disable") => context["seLinuxOptions"] = json!({ "type": "spc_t" }),
        ("label", label) => {
            let (part, value) = label
                .split_once(':')
                .context("expected label=disable or label=user|role|type|level:VALUE")?;
            if !["user", "role", "type", "level"].contains(&part) || value.is_empty() {
                bail!("expected label=disable or label=user|role|type|level:VALUE");
            }
            context["seLinuxOptions"][part] = json!(value);
        }
        ("systempaths", "unconfined") => context["procMount"] = json!("Unmasked"),
        _ => bail!(
            "is not supported: no-new-privileges, seccomp=, apparmor=, label= and systempaths=unconfined are"
        ),
    }
    Ok(())
}

/// The user of the processes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: Option<String>,
    pub id: Option<u32>,
    pub group: Option<u32>,
}

/// Parses `--user`.
///
/// # Errors
/// A group is given by name, or a number is not valid.
pub fn user(options: &Options) -> anyhow::Result<User> {
    let Some(text) = &options.user else { return Ok(User::default()) };
    let (user, group) =
        text.split_once(':').map_or((text.as_str(), None), |(user, group)| (user, Some(group)));
    let group = group
        .map(|group| group.parse::<u32>().ok())
        .map(|group| {
            group.with_context(|| {
                format!("--user {text:?}: the group must be a number: the CRI has no names of groups")
            })
        })
        .transpose()?;
    if user.is_empty() || user.contains(|c: char| c.is_whitespace() || c == '\0') {
        bail!("--user {text:?}: expected USER[:GROUP]");
    }
    let is_number = user.bytes().all(|b| b.is_ascii_digit());
    if is_number {
        let id = user.parse().ok().with_context(|| format!("--user {text:?}: {user} is too large"))?;
        return Ok(User { name: None, id: Some(id), group });
    }
    Ok(User { name: Some(user.to_owned()), id: None, group })
}

#[cfg(test)]
mod tests {
    use super::super::options::Security;
    use super::*;

    fn with(change: impl FnOnce(&mut Security)) -> anyhow::Result<Value> {
        let mut options = Options::default();
        change(&mut options.security);
        of_container(&options)
    }

    #[test]
    fn a_profile_is_the_default_and_options_change_it() {
        assert_eq!(with(|_| {}).unwrap()["seccompProfile"]["type"], "RuntimeDefault");
        assert!(with(|s| s.privileged = true).unwrap().get("seccompProfile").is_none());
        let opts = |all: &[&str]| {
            let all = all.iter().map(|text| (*text).to_owned()).collect();
            with(|s| s.security_opt = all)
        };
        let context = opts(&[
            "no-new-privileges",
            "seccomp=unconfined",
            "label=type:x",
            "label=level:s0",
            "apparmor=a",
        ])
        .unwrap();
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["seccompProfile"]["type"], "Unconfined");
        assert_eq!(context["seLinuxOptions"], json!({ "type": "x", "level": "s0" }));
        assert_eq!(context["appArmorProfile"]["localhostProfile"], "a");
        for text in [
            "",
            "x",
            "seccomp=",
            "seccomp=/no-such-file",
            "label=",
            "label=x:y",
            "label=type:",
            "apparmor=",
            "systempaths=x",
            "mask=/proc",
        ] {
            let error = format!("{:#}", opts(&[text]).unwrap_err());
            assert!(error.contains(&format!("--security-opt {text:?}")), "{error}");
        }
    }

    #[test]
    fn capabilities_groups_and_sysctls_are_checked() {
        let context = with(|s| s.cap_add = vec!["cap_net_admin".into(), "all".into()]).unwrap();
        assert_eq!(context["capabilities"]["add"], json!(["NET_ADMIN", "ALL"]));
        for text in ["", "CAP_", "NET ADMIN", "net-admin"] {
            assert!(
                with(|s| s.cap_drop = vec![text.to_owned()]).unwrap_err().to_string().contains("--cap-drop")
            );
        }
        let pod = |groups: &[&str], sysctls: &[&str]| {
            let group_add = groups.iter().map(|text| (*text).to_owned()).collect();
            let mut options = Options { group_add, ..Options::default() };
            options.security.sysctl = sysctls.iter().map(|text| (*text).to_owned()).collect();
            of_pod(&options)
        };
        let context = pod(&["7"], &["net.ipv4.ip_forward=1", "kernel.msgmax="]).unwrap();
        assert_eq!(context["sysctls"][0], json!({ "name": "net.ipv4.ip_forward", "value": "1" }));
        for (groups, sysctls, option) in [
            (&["audio"][..], &[][..], "--group-add"),
            (&["-1"], &[], "--group-add"),
            (&[], &["a"], "--sysctl"),
            (&[], &["=1"], "--sysctl"),
        ] {
            assert!(pod(groups, sysctls).unwrap_err().to_string().contains(option));
        }
    }

    #[test]
    fn users_are_numbers_or_names() {
        let of = |text: &str| user(&Options { user: Some(text.to_owned()), ..Options::default() });
        assert_eq!(of("1000:100").unwrap(), User { name: None, id: Some(1000), group: Some(100) });
        assert_eq!(of("www-data").unwrap(), User { name: Some("www-data".into()), ..User::default() });
        for text in ["", ":1", "1000:staff", "a b", "4294967296", "1:-1", "a:"] {
            assert!(of(text).unwrap_err().to_string().contains("--user"), "{text}");
        }
    }
}
