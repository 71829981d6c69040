//! `crisp login` and `crisp logout`: credentials for a registry, stored as docker stores them.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use crisp_image_service::Reference;
use crisp_proto::crisp::v1::CheckLoginRequest;
use crisp_proto::runtime::v1::AuthConfig;
use tonic::Code;

use super::client::refused;
use super::connect;
use super::credentials::Logins;
use super::terminal::without_echo;
use crate::config::Settings;
use crate::print;

/// Store a user name and password for a registry; pulls use them
///
/// The server first checks them with the registry; without a server they are stored unchecked. They are
/// stored in docker's config.json, or by the credential helper that it names.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp login registry.example.org
  pass show registry | crisp login -u ann --password-stdin registry.example.org

REGISTRY_AUTH_FILE names another file, DOCKER_CONFIG the folder of config.json. Read are also containers' auth.json.")]
pub struct Login {
    /// User name
    #[arg(long, short)]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Registry, as HOST or HOST:PORT
    #[arg(default_value = "docker.io")]
    registry: String,
}

/// Forget the credentials for a registry
#[derive(Debug, clap::Args)]
pub struct Logout {
    /// Registry, as HOST or HOST:PORT
    #[arg(default_value = "docker.io")]
    registry: String,
}

impl Login {
    pub fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let registry = host(&self.registry)?;
        if self.password_stdin && self.username.is_none() {
            bail!("--password-stdin: say the user name by --username");
        }
        if !self.password_stdin && !std::io::stdin().is_terminal() {
            bail!("there is no terminal to ask on: use --username and --password-stdin");
        }
        let username = match self.username {
            Some(username) => username,
            None => line("Username: ")?,
        };
        if username.is_empty() || username.contains(':') {
            bail!("--username: expected a name without a colon");
        }
        let password = if self.password_stdin { of_stdin()? } else { without_echo(|| line("Password: "))?? };
        if password.is_empty() {
            bail!("the password is empty");
        }
        check(settings, &registry, &username, &password)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let place = runtime.block_on(Logins::of_user()?.store(&registry, &username, &password))?;
        print::line(format_args!("Login for {registry} kept in {place}"))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Logout {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let registry = host(&self.registry)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if !runtime.block_on(Logins::of_user()?.erase(&registry))? {
            bail!("there is no login for {registry}");
        }
        print::line(format_args!("Login for {registry} removed"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Lets the server check the login with the registry.
fn check(settings: &Settings, registry: &str, username: &str, password: &str) -> anyhow::Result<()> {
    let auth =
        AuthConfig { username: username.to_owned(), password: password.to_owned(), ..AuthConfig::default() };
    let request = CheckLoginRequest { registry: registry.to_owned(), auth: Some(auth) };
    let asked = connect(settings, |mut client| async move { Ok(client.store.check_login(request).await) });
    match asked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if status.code() != Code::Unimplemented => Err(refused(status)),
        Ok(Err(_)) => Ok(()),
        Err(error) => {
            print::warning(format_args!("crisp: the password is not checked: {error:#}"));
            Ok(())
        }
    }
}

/// Removes the scheme and the path, which people copy with the name.
fn host(text: &str) -> anyhow::Result<String> {
    let bare = text.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.split('/').next().unwrap_or_default();
    let bare = if matches!(bare, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { bare };
    let reference =
        Reference::parse(&format!("{bare}/login")).with_context(|| format!("registry {text:?}"))?;
    if reference.registry() != bare {
        bail!("{text:?} is no registry: expected HOST or HOST:PORT");
    }
    Ok(bare.to_owned())
}

fn line(prompt: &str) -> anyhow::Result<String> {
    let mut out = std::io::stdout();
    write!(out, "{prompt}").and_then(|()| out.flush())?;
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn of_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().lock().take(64 << 10).read_to_string(&mut text).context("the password")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_hosts() {
        for (text, registry) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("r.test:5000", "r.test:5000"),
            ("https://r.test/v2/", "r.test"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host(text).unwrap(), registry, "{text}");
        }
        assert!(host("").is_err() && host("not a host").is_err());
    }
}
