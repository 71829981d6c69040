//! Accepts connections also when the process has no free descriptors: for the metrics page, and for the
//! server's other listeners.

use std::io;
use std::time::Duration;

/// The pause after a failure. Descriptors become free when other work ends; trying again at once would only
/// use CPU.
const PAUSE: Duration = Duration::from_millis(100);

/// Returns the next connection, after as many tries as it takes. `listener` is the name for the log.
pub async fn accept<T, F: Future<Output = io::Result<T>>>(
    listener: &str,
    mut accept: impl FnMut() -> F,
) -> T {
    loop {
        match accept().await {
            Ok(connection) => return connection,
            Err(error) => {
                tracing::warn!(listener, %error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_paused_after() {
        let begun = tokio::time::Instant::now();
        let mut tries = 0;
        let accepted = accept("a test", || {
            tries += 1;
            let result = if tries < 4 { Err(io::Error::from_raw_os_error(24)) } else { Ok(tries) };
            std::future::ready(result)
        });
        assert_eq!(accepted.await, 4);
        assert_eq!(begun.elapsed(), 3 * PAUSE);
    }
}
