//! `Debug` for the messages that carry secrets: it says whether one is there, never what it is.

use std::fmt;

use crate::crisp::v1::{CreateStandaloneRequest, ExecContainerRequest, RunManifestsRequest};
use crate::runtime::v1::{AuthConfig, PullImageRequest};

/// Prints as `""` or `"***"`.
struct Secret<'a>(&'a str);

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self { username, password, auth, server_address, identity_token, registry_token } = self;
        f.debug_struct("AuthConfig")
            .field("username", username)
            .field("password", &Secret(password))
            .field("auth", &Secret(auth))
            .field("server_address", server_address)
            .field("identity_token", &Secret(identity_token))
            .field("registry_token", &Secret(registry_token))
            .finish()
    }
}

impl fmt::Debug for RunManifestsRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, documents, replace, create_only } = self;
        f.debug_struct("RunManifestsRequest")
            .field("source", source)
            // Secrets are among them.
            .field("documents", &documents.len())
            .field("replace", replace)
            .field("create_only", create_only)
            .finish()
    }
}

impl fmt::Debug for CreateStandaloneRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, documents, replace } = self;
        f.debug_struct("CreateStandaloneRequest")
            .field("source", source)
            // Variables among them may be secrets.
            .field("documents", &documents.len())
            .field("replace", replace)
            .finish()
    }
}

impl fmt::Debug for ExecContainerRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { container_id, command, stdin, stdout, stderr, tty, environment, user, working_dir } = self;
        let names = environment.iter().map(|text| text.split('=').next().unwrap_or_default());
        f.debug_struct("ExecContainerRequest")
            .field("container_id", container_id)
            .field("command", command)
            .field("streams", &[stdin, stdout, stderr, tty])
            // Values may be secrets.
            .field("environment", &names.collect::<Vec<_>>())
            .field("user", user)
            .field("working_dir", working_dir)
            .finish()
    }
}

impl fmt::Debug for PullImageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, auth, sandbox_config } = self;
        f.debug_struct("PullImageRequest")
            .field("image", image)
            .field("auth", auth)
            // Says enough of the pod; the rest of it is long.
            .field("sandbox", &sandbox_config.as_ref().and_then(|c| c.metadata.as_ref()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed_not_even_inside_a_request() {
        let auth = AuthConfig {
            username: "ann".into(),
            password: "s3cret-a".into(),
            auth: "s3cret-b".into(),
            server_address: "r.example".into(),
            identity_token: "s3cret-c".into(),
            registry_token: "s3cret-d".into(),
        };
        let request = PullImageRequest { auth: Some(auth.clone()), ..Default::default() };
        for text in [format!("{auth:?}"), format!("{request:#?}")] {
            assert!(!text.contains("s3cret"), "{text}");
            assert!(text.contains("ann") && text.contains("***"), "{text}");
        }
    }
}
