//! A command with a user, variables or a working directory of its own.

use std::path::PathBuf;

use crisp_executor::user;
use crisp_sandbox::Pod;
use oci_spec::runtime::{LinuxSeccomp, Process};

use crate::cause::Cause;
use crate::container::{Container, User};
use crate::ops::{container_root, container_spec};
use crate::service_state::ServiceState;
use crate::spec::{self, SpecError};

/// Settings of a command that differ from those of its container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// USER[:GROUP], by name or number, as in the container's own files at this moment.
    pub user: Option<String>,
    /// Names and values.
    pub environment: Vec<(String, String)>,
    /// Absolute.
    pub working_dir: Option<PathBuf>,
}

/// The container's process, with the changes. Blocks: may read files of the container.
///
/// # Errors
/// The user is unknown.
pub(super) fn process(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
    changes: &Changes,
) -> Result<(Process, Option<LinuxSeccomp>), Cause> {
    let found = changes.user.as_deref().map(|name| find_user(service, container, name)).transpose()?;
    let user = found.as_ref().unwrap_or(&container.metadata.user);
    let (mut process, seccomp) = container_spec::build_process(service, container, pod, user)?;
    let environment = process.env().clone().unwrap_or_default();
    let environment = merged(environment, &changes.environment);
    spec::environment::check(&[], &environment).map_err(SpecError::from)?;
    process.set_env(Some(environment));
    if let Some(path) = &changes.working_dir {
        process.set_cwd(path.clone());
    }
    Ok((process, seccomp))
}

fn find_user(service: &ServiceState, container: &Container, name: &str) -> Result<User, Cause> {
    let root = container_root::open(service, container.id())?;
    let found = user::resolve(root, name)?;
    let mut user = spec::user::with_groups(&found, &container.metadata.config.security);
    user.add_groups(&container.metadata.cdi.groups);
    Ok(user)
}

/// The last value of a variable counts.
fn merged(mut environment: Vec<String>, changes: &[(String, String)]) -> Vec<String> {
    for (name, value) in changes {
        environment.retain(|variable| variable.split_once('=').is_none_or(|(known, _)| known != name));
        environment.push(format!("{name}={value}"));
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_replaces_the_one_of_its_name() {
        let now = vec!["PATH=/bin".to_owned(), "A=1".to_owned(), "AB=2".to_owned()];
        let change = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let changes = [change("A", "x=y"), change("NEW", ""), change("A", "z")];
        assert_eq!(merged(now, &changes), ["PATH=/bin", "AB=2", "NEW=", "A=z"]);
    }
}
