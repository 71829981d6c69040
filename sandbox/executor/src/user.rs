//! The user that a process runs as: resolves USER strings with the image's own /etc/passwd and /etc/group.
//!
//! Both files are untrusted: lines that do not parse are skipped, ids out of range are refused, and the
//! files may be missing (an image with one static binary has neither).

use std::os::fd::AsFd;

use crate::in_root::{self, InRootError};

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// The groups that /etc/group lists the user in, sorted, without `gid` itself.
    pub groups: Vec<u32>,
    /// Home folder; `/` when the image has none.
    pub home: String,
    /// The user's name, when the image has it.
    pub name: Option<String>,
}

/// The reason why a USER string cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("user {name:?} is not in the image's /etc/passwd")]
    UnknownUser { name: String },
    #[error("group {name:?} is not in the image's /etc/group")]
    UnknownGroup { name: String },
    #[error("user {name:?} is in {count} groups of the image's /etc/group: a process can be in {MAX_GROUPS}")]
    TooManyGroups { name: String, count: usize },
    #[error("{what} {text:?} is out of range: ids go from 0 to {MAX_ID}")]
    OutOfRange { what: &'static str, text: String },
    #[error("user {text:?} is malformed: expected USER, UID, USER:GROUP or UID:GID")]
    Malformed { text: String },
    #[error(transparent)]
    Image(#[from] InRootError),
}

/// `u32::MAX` means "no change" to the kernel.
const MAX_ID: u32 = u32::MAX - 1;

/// NGROUPS_MAX.
const MAX_GROUPS: usize = 65_536;

/// Larger than any real file; an image must not make the server read without end.
const MAX_FILE: usize = 8 << 20;

/// Resolves `name`, `uid`, `name:group`, `uid:gid` and mixes of them; empty means root.
///
/// Digits alone are always a number, also when an account has such a name. The primary group is the requested
/// one, or that of /etc/passwd, or 0 for a uid that the image does not have.
///
/// # Errors
/// [`UserError`] with the user or group.
pub fn resolve(root: impl AsFd, user: &str) -> Result<User, UserError> {
    let passwd = read(&root, "/etc/passwd")?;
    let group = read(&root, "/etc/group")?;
    resolve_in(&passwd, &group, user)
}

fn read(root: &impl AsFd, path: &str) -> Result<String, UserError> {
    let content = in_root::read_file(root, path, MAX_FILE)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&content).into_owned())
}

fn resolve_in(passwd: &str, group: &str, text: &str) -> Result<User, UserError> {
    let (wanted, wanted_group) = match text.split_once(':') {
        Some((_, group)) if group.is_empty() || group.contains(':') => {
            return Err(UserError::Malformed { text: shorten(text) });
        }
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let entry = match number("user", wanted)? {
        Some(uid) => accounts(passwd).find(|a| a.uid == uid).unwrap_or(Account::nameless(uid)),
        None => accounts(passwd)
            .find(|a| a.name == wanted)
            .ok_or_else(|| UserError::UnknownUser { name: shorten(wanted) })?,
    };
    let gid = match wanted_group {
        None => entry.gid,
        Some(wanted) => match number("group", wanted)? {
            Some(gid) => gid,
            None => groups(group)
                .find(|g| g.name == wanted)
                .map(|g| g.gid)
                .ok_or_else(|| UserError::UnknownGroup { name: shorten(wanted) })?,
        },
    };
    let member = |g: &Group<'_>| !entry.name.is_empty() && g.members.split(',').any(|m| m == entry.name);
    let mut member_of: Vec<u32> = groups(group).filter(member).map(|g| g.gid).filter(|g| *g != gid).collect();
    member_of.sort_unstable();
    member_of.dedup();
    if member_of.len() > MAX_GROUPS {
        return Err(UserError::TooManyGroups { name: shorten(entry.name), count: member_of.len() });
    }
    Ok(User {
        uid: entry.uid,
        gid,
        groups: member_of,
        home: if entry.home.starts_with('/') { entry.home.to_owned() } else { "/".to_owned() },
        name: (!entry.name.is_empty()).then(|| entry.name.to_owned()),
    })
}

/// Parses an id; None when it is not a number. A number that is too large is an error: it is neither a name
/// nor truncated.
fn number(what: &'static str, text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID && digits.len() == text.len() => Ok(Some(id)),
        _ => Err(UserError::OutOfRange { what, text: shorten(text) }),
    }
}

/// Shortens a name for messages: names come from requests and images.
fn shorten(text: &str) -> String {
    text.chars().take(128).collect()
}

/// `name:password:uid:gid:comment:home:shell`, passwd(5).
#[derive(Clone, Copy)]
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Account<'_> {
    fn nameless(uid: u32) -> Self {
        Self { name: "", uid, gid: 0, home: "/" }
    }
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok().filter(|id| *id <= MAX_ID)?;
        let gid = fields.next()?.parse().ok().filter(|id| *id <= MAX_ID)?;
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// `name:password:gid:member,member`, group(5).
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok().filter(|id| *id <= MAX_ID)?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# comment
broken
huge:x:4294967296:0::/:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh
1234:x:77:77::/digits:
last:x:2147483647:5::relative:
";
    const GROUP: &str =
        "root:x:0:root\nwheel:x:10:root,app\nstaff:x:20:app,\nappgroup:x:1001:app\nbad:x:99999999999:app\n";

    fn user(text: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        let user = resolve_in(PASSWD, GROUP, text).map_err(|e| e.to_string())?;
        Ok((user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn more_groups_than_a_process_can_have_are_refused() {
        let of = |count: u32| (1..=count).map(|id| format!("g::{}:app\n", id + 2000)).collect::<String>();
        assert_eq!(resolve_in(PASSWD, &of(65_536), "app").unwrap().groups.len(), 65_536);
        let error = resolve_in(PASSWD, &of(65_537), "app").unwrap_err().to_string();
        assert!(error.contains("65537 groups of the image's /etc/group"), "{error}");
    }

    #[test]
    fn every_form_is_resolved() {
        let cases = [
            ("", (0, 0, vec![10], "/root")),
            ("root", (0, 0, vec![10], "/root")),
            ("0:0", (0, 0, vec![10], "/root")),
            ("app", (1000, 1001, vec![10, 20], "/home/app")),
            ("1000", (1000, 1001, vec![10, 20], "/home/app")),
            ("app:wheel", (1000, 10, vec![20, 1001], "/home/app")),
            ("1000:5", (1000, 5, vec![10, 20, 1001], "/home/app")),
            ("4711", (4711, 0, vec![], "/")),
            ("4711:staff", (4711, 20, vec![], "/")),
            (":staff", (0, 20, vec![0, 10], "/root")),
            ("1234", (1234, 0, vec![], "/")),
            ("2147483647", (2_147_483_647, 5, vec![], "/")),
            ("4294967294:4294967294", (4_294_967_294, 4_294_967_294, vec![], "/")),
        ];
        for (text, (uid, gid, groups, home)) in cases {
            assert_eq!(user(text), Ok((uid, gid, groups, home.to_owned())), "{text}");
        }
    }

    #[test]
    fn an_unknown_user_or_group_is_refused_by_name() {
        let cases = [
            ("missing", "user \"missing\" is not in the image's /etc/passwd"),
            ("huge", "user \"huge\" is not in the image's /etc/passwd"),
            ("app:nogroup", "group \"nogroup\" is not in the image's /etc/group"),
            ("0:bad", "group \"bad\" is not"),
            ("4294967295", "user \"4294967295\" is out of range"),
            ("4294967296", "out of range"),
            ("0:4294967296", "group \"4294967296\" is out of range"),
            ("18446744073709551616", "out of range"),
            ("-1", "out of range"),
            ("+0", "out of range"),
            ("app:", "malformed"),
            ("a:b:c", "malformed"),
        ];
        for (text, expected) in cases {
            let error = user(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn an_image_without_files_has_numbers_only() {
        assert_eq!(resolve_in("", "", "").unwrap().uid, 0);
        assert_eq!(resolve_in("", "", "65534").unwrap().gid, 0);
        assert!(matches!(resolve_in("", "", "root"), Err(UserError::UnknownUser { .. })));
    }

    #[test]
    fn files_of_an_image_cannot_hang_or_flood_the_reader() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, etc.join("passwd"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        assert!(matches!(resolve(&root, "0"), Err(UserError::Image(InRootError::NotAFile { .. }))));
        std::fs::remove_file(etc.join("passwd")).unwrap();
        std::os::unix::fs::symlink("/../../../etc/own", etc.join("passwd")).unwrap();
        std::fs::write(etc.join("own"), "inside:x:5:6::/:").unwrap();
        assert_eq!(resolve(&root, "inside").unwrap().uid, 5);
        std::fs::write(etc.join("group"), vec![b'x'; MAX_FILE + 1]).unwrap();
        assert!(matches!(resolve(&root, "0"), Err(UserError::Image(InRootError::TooLarge { .. }))));
    }

    /// For any content of an image's files and USER, the result is a user or an error.
    #[test]
    fn damaged_files_and_names_never_panic() {
        let parts = [
            "root",
            ":",
            "0",
            "x",
            "\n",
            "4294967295",
            "-1",
            ",",
            "\u{0}",
            "\u{fffd}",
            " ",
            "#",
            "é",
            "::",
            "+",
        ];
        let mut state = 3u64;
        let mut text = |length: usize| -> String {
            (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    parts[usize::try_from(state >> 33).unwrap() % parts.len()]
                })
                .collect()
        };
        for round in 0..2000 {
            let (passwd, group, user) = (text(round % 60), text(round % 40), text(round % 6));
            if let Ok(found) = resolve_in(&passwd, &group, &user) {
                assert!(
                    found.uid <= MAX_ID && found.gid <= MAX_ID && found.home.starts_with('/'),
                    "{user:?}"
                );
            }
        }
        let long = format!("{}:x:7:8::/:", "n".repeat(1 << 20));
        assert_eq!(resolve_in(&long, "", "7").unwrap().gid, 8);
    }
}
