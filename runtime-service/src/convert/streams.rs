//! The streams that Exec and Attach request.

use crisp_streaming::ProcessRequest;

use super::{ConvertError, invalid};

/// # Errors
/// The streams exclude each other, or none is requested; kubelet and other runtimes have the same rules.
pub fn process(request: ProcessRequest) -> Result<ProcessRequest, ConvertError> {
    if request.tty && request.stderr {
        return Err(invalid("stderr", "cannot be apart from stdout with a terminal: leave one of them out"));
    }
    if !(request.stdin || request.stdout || request.stderr) {
        return Err(invalid("stdin, stdout, stderr", "none is asked for"));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_together_is_refused() {
        let request = |stdin, stdout, stderr, tty| process(ProcessRequest { stdin, stdout, stderr, tty });
        assert!(request(true, true, false, true).is_ok());
        assert!(request(false, false, true, false).is_ok());
        assert!(request(false, true, true, true).is_err());
        assert!(request(false, false, false, false).is_err());
    }
}
