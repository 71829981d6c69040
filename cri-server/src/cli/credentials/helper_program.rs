//! Credential helpers: programs of the user with the name `docker-credential-NAME`.
//!
//! A helper reads its request on standard input and says on standard output why it fails. A secret is in no message.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use crisp_proto::runtime::v1::AuthConfig;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::keys::is_server;

/// Time limit for a helper.
const LIMIT: Duration = Duration::from_secs(30);
/// The user name by which helpers say that the secret is a token.
const TOKEN_USER: &str = "<token>";
/// The beginning of every helper's message that it has no such login.
const NOT_FOUND: &str = "credentials not found";

/// Why a helper does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
enum HelperError {
    #[error("the helper has no such login")]
    NotFound,
    #[error("{0}")]
    Refused(String),
    /// It cannot be started or does not end, so that another request is of no use.
    #[error("{0:#}")]
    Unusable(anyhow::Error),
}

/// The first login that the helper has under one of the keys. None also where it fails: the file may have one.
///
/// # Errors
/// Its answer is not in the form of a helper's.
pub async fn find(helper: &str, keys: &[String]) -> anyhow::Result<Option<AuthConfig>> {
    for key in keys.iter().filter(|key| is_server(key)) {
        match get(helper, key).await {
            Ok(answer) => {
                if let Some(login) = login(helper, &answer)? {
                    return Ok(Some(login));
                }
            }
            Err(HelperError::Unusable(_)) => return Ok(None),
            Err(HelperError::NotFound | HelperError::Refused(_)) => {}
        }
    }
    Ok(None)
}

/// Keeps a login under its key, and forgets other logins under the other keys: they would be read first.
///
/// # Errors
/// The helper refuses.
pub async fn store(
    helper: &str,
    key: &str,
    keys: &[String],
    username: &str,
    password: &str,
) -> anyhow::Result<()> {
    let input = json!({ "ServerURL": key, "Username": username, "Secret": password });
    run(helper, "store", &input.to_string()).await?;
    for other in keys.iter().filter(|other| is_server(other) && *other != key) {
        let there = match get(helper, other).await {
            Ok(answer) => login(helper, &answer)?,
            Err(HelperError::Unusable(_)) => break,
            Err(HelperError::NotFound | HelperError::Refused(_)) => None,
        };
        // Some helpers give one login for all keys.
        if there.is_some_and(|there| (&*there.username, &*there.password) != (username, password)) {
            let failed = || format!("an older login under {other} hides the new one and cannot be erased");
            run(helper, "erase", other).await.with_context(failed)?;
        }
    }
    Ok(())
}

/// Forgets the logins under all keys. Returns false when the helper has none.
///
/// # Errors
/// The helper cannot be asked, or refuses: the login may still be there.
pub async fn erase(helper: &str, keys: &[String]) -> anyhow::Result<bool> {
    let (mut is_gone, mut failure, mut unclear) = (false, None, None);
    for key in keys.iter().filter(|key| is_server(key)) {
        match erase_one(helper, key).await {
            Ok(was_there) => is_gone |= was_there,
            Err(EraseError::Unclear(error)) => unclear = unclear.or(Some(error)),
            Err(EraseError::Kept(HelperError::Unusable(error))) => {
                failure = failure.or(Some(error));
                break;
            }
            Err(EraseError::Kept(error)) => failure = failure.or(Some(error.into())),
        }
    }
    // Some helpers fail for keys that they do not have.
    match failure.or(unclear.filter(|_| !is_gone).map(Into::into)) {
        Some(error) => {
            Err(error.context(format!("the login may still be kept by docker-credential-{helper}")))
        }
        None => Ok(is_gone),
    }
}

/// Why a login may still be there.
enum EraseError {
    /// The helper shows it, or cannot be asked.
    Kept(HelperError),
    /// The helper refuses to show it and to erase it.
    Unclear(HelperError),
}

async fn erase_one(helper: &str, key: &str) -> Result<bool, EraseError> {
    let found = get(helper, key).await;
    match found {
        Ok(answer) if matches!(login(helper, &answer), Ok(None)) => Ok(false),
        Ok(_) => run(helper, "erase", key).await.map(|_| true).map_err(EraseError::Kept),
        Err(HelperError::NotFound) => Ok(false),
        Err(error @ HelperError::Unusable(_)) => Err(EraseError::Kept(error)),
        // A login that it cannot show may be one that it can erase.
        Err(error) => match run(helper, "erase", key).await {
            Ok(_) => Ok(true),
            Err(HelperError::NotFound) => Ok(false),
            Err(_) => Err(EraseError::Unclear(error)),
        },
    }
}

async fn get(helper: &str, key: &str) -> Result<String, HelperError> {
    run(helper, "get", key).await
}

fn login(helper: &str, answer: &str) -> anyhow::Result<Option<AuthConfig>> {
    // The parser's own message would show a part of the answer.
    let answer: Value = serde_json::from_str(answer)
        .ok()
        .with_context(|| format!("docker-credential-{helper} gives no JSON"))?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let (username, secret) = (text("Username"), text("Secret"));
    if username.is_empty() || secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if username == TOKEN_USER {
        AuthConfig { identity_token: secret, ..AuthConfig::default() }
    } else {
        AuthConfig { username, password: secret, ..AuthConfig::default() }
    }))
}

/// Runs a helper and returns its output.
async fn run(helper: &str, action: &str, input: &str) -> Result<String, HelperError> {
    let program = format!("docker-credential-{helper}");
    let output = output(helper, &program, action, input).await.map_err(HelperError::Unusable)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(text.into_owned());
    }
    if text.contains(NOT_FOUND) {
        return Err(HelperError::NotFound);
    }
    Err(HelperError::Refused(format!("{program} {action} failed ({})", output.status)))
}

#[expect(clippy::disallowed_methods, reason = "helpers of logins are programs of the user")]
async fn output(
    helper: &str,
    program: &str,
    action: &str,
    input: &str,
) -> anyhow::Result<std::process::Output> {
    if !helper.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        return Err(anyhow!("{helper:?} is not the name of a helper"));
    }
    let mut command = tokio::process::Command::new(program);
    command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let work = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A helper need not read it.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(LIMIT, work).await;
    Ok(output.with_context(|| format!("{program} {action} does not end"))??)
}
