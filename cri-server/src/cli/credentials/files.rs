//! The files with logins, in the form of docker's config.json.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown, fchown};
use std::path::Path;

use anyhow::{Context as _, bail};
use crisp_proto::runtime::v1::AuthConfig;
use serde_json::{Map, Value, json};

/// Returns None when the file does not exist.
pub fn read(path: &Path) -> anyhow::Result<Option<Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    // The parser's own message would show a part of the file.
    let file: Option<Value> = serde_json::from_str(&text).ok();
    match file {
        Some(file) if file.is_object() => Ok(Some(file)),
        _ => bail!("{} is not in the form of docker's config.json", path.display()),
    }
}

/// Replaces the file with one that only its owner can read. A link stays, and so does the owner: with sudo, the
/// file is that of the user.
pub fn write(path: &Path, file: &Value) -> anyhow::Result<()> {
    use std::io::Write as _;
    let failed = || path.display().to_string();
    let path = &fs::canonicalize(path).or_else(|_| std::path::absolute(path)).with_context(failed)?;
    let folder = path.parent().unwrap_or(path);
    make_folder(folder).with_context(failed)?;
    let owner = fs::metadata(path).or_else(|_| fs::metadata(folder)).with_context(failed)?;
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
    let written = made.and_then(|mut draft| {
        // Only root can give it away.
        let _ = fchown(&draft, Some(owner.uid()), Some(owner.gid()));
        draft.write_all(serde_json::to_string_pretty(file)?.as_bytes())?;
        draft.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&draft, path));
    if placed.is_err() {
        let _ = fs::remove_file(&draft);
    }
    placed.with_context(failed)
}

/// Makes a missing folder, for the owner of the folder above it.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().ok_or(ErrorKind::NotFound)?;
    make_folder(above)?;
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        // Another login was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        made => made?,
    }
    let owner = fs::metadata(above)?;
    let _ = chown(folder, Some(owner.uid()), Some(owner.gid()));
    Ok(())
}

/// The helper that has the login of one of the keys.
pub fn helper(file: &Value, keys: &[String]) -> Option<String> {
    let own = keys.iter().find_map(|key| file["credHelpers"][key].as_str());
    own.or(file["credsStore"].as_str()).filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The login under one of the keys, the most exact first.
pub fn login(file: &Value, keys: &[String]) -> Option<AuthConfig> {
    keys.iter().find_map(|key| entry(&file["auths"][key]))
}

fn entry(login: &Value) -> Option<AuthConfig> {
    let text = |name: &str| login[name].as_str().unwrap_or_default().to_owned();
    let found = AuthConfig {
        auth: text("auth"),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        username: text("username"),
        password: text("password"),
        ..AuthConfig::default()
    };
    // An empty entry means that a helper has the login.
    (found != AuthConfig::default()).then_some(found)
}

/// Keeps a login under its key, in place of those under its other keys: they would be read first.
pub fn set_login(file: &mut Value, key: &str, keys: &[String], username: &str, password: &str) {
    if !file["auths"].is_object() {
        file["auths"] = Value::Object(Map::new());
    }
    remove_logins(file, keys);
    let auth = base64(format!("{username}:{password}").as_bytes());
    file["auths"][key] = json!({ "auth": auth });
}

/// Removes the logins under these keys. Returns whether there was one.
pub fn remove_logins(file: &mut Value, keys: &[String]) -> bool {
    let Some(auths) = file["auths"].as_object_mut() else { return false };
    let before = auths.len();
    auths.retain(|name, _| !keys.contains(name));
    auths.len() < before
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_any_length() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }
}
