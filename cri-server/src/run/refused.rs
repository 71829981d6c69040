//! Refusals of the services, as errors for people.

/// The error of a refused request: its message has everything, the code adds nothing for people.
pub fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
