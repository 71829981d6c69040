//! A promise, and the check that a runtime keeps it.

use std::pin::Pin;
use std::time::Duration;

use crisp_e2e::{Error, Result, needs};

use crate::cri::Cri;
use crate::node;

/// The document that makes the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The contract between kubelet and runtimes, by its comments.
    Cri,
    /// Documented by Kubernetes about pods, as far as the runtime is responsible, or required by kubelet.
    Kubernetes,
}

/// One promised behaviour.
#[derive(Debug)]
pub struct Promise {
    /// The name of the file.
    pub theme: &'static str,
    pub test: &'static str,
    pub by: By,
    /// RPCs, and fields in the form MESSAGE.FIELD.
    pub about: &'static [&'static str],
    pub text: &'static str,
    /// Runtimes that do not keep the promise: the name, and a part of the failure's text.
    pub broken_by: &'static [(&'static str, &'static str)],
}

/// The test of a promise.
pub type Proof = for<'a> fn(&'a mut Cri) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// A test that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Declares promises, each tested by an `async fn NAME(cri: &mut Cri) -> Result<()>` in the same file: `NAME:
/// WHO, [RPCs and fields], "text"`, and for a runtime that breaks it `, NAME: "part of the failure"`.
macro_rules! promises {
    ($($test:ident: $by:ident, [$($about:literal),+], $text:literal $(, $runtime:ident: $failure:literal)*;)+) => {
        pub const PROMISES: &[crate::promise::Promise] = &[$(crate::promise::Promise {
            theme: module_path!(),
            test: stringify!($test),
            by: crate::promise::By::$by,
            about: &[$($about),+],
            text: $text,
            broken_by: &[$((stringify!($runtime), $failure)),*],
        }),+];

        mod tests {
            $(
                #[tokio::test]
                async fn $test() -> crisp_e2e::Result<()> {
                    let name = stringify!($test);
                    let promise = super::PROMISES.iter().find(|promise| promise.test == name);
                    let promise = promise.ok_or("not in the list above")?;
                    crate::promise::keep(promise, |cri| Box::pin(super::$test(cri))).await
                }
            )+
        }
    };
}

/// Runs a test on the shared runtime and removes its pods.
pub async fn keep(promise: &'static Promise, proof: Proof) -> Result<()> {
    needs!("docker-registry", "busybox");
    let node = node::shared().await?;
    let cri = Cri::connect(node.clone()).await?;
    let pods = cri.pods();
    // In a task of its own, so that a failed assertion is returned as an error.
    let task = tokio::spawn(async move {
        let mut cri = cri;
        tokio::time::timeout(LIMIT, proof(&mut cri)).await.unwrap_or_else(|_| Err("hangs".into()))
    });
    let outcome = task.await.unwrap_or_else(|panic| Err(message(panic)));
    let removed = node.remove(&pods).await;
    let runtime = node.runtime.clone();
    let closed = node::release(node).await;
    judge(promise, &runtime, outcome)?;
    removed?;
    closed
}

fn judge(promise: &Promise, runtime: &str, outcome: Result<()>) -> Result<()> {
    let known = promise.broken_by.iter().find(|(name, _)| runtime == *name);
    match (known, outcome) {
        (None, outcome) => outcome,
        (Some((name, _)), Ok(())) => {
            Err(format!("{name} keeps {} now: say so in the declaration", promise.test).into())
        }
        (Some((_, words)), Err(failure)) if failure.to_string().contains(words) => Ok(()),
        (Some((_, words)), Err(failure)) => Err(format!("fails, but not with {words:?}: {failure}").into()),
    }
}

fn message(failed: tokio::task::JoinError) -> Error {
    match failed.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            text.unwrap_or_default().into()
        }
        Err(cancelled) => cancelled.to_string().into(),
    }
}
