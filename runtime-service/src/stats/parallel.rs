//! Runs blocking work for many items on a few threads.

use std::sync::LazyLock;
use std::thread::available_parallelism;

use tokio::task::spawn_blocking;

/// Maximal number of threads.
const MAX_THREADS: usize = 4;
/// Minimal number of items per thread: a thread costs as much as reading several items.
const MIN_ITEMS: usize = 8;

/// Determined once, because it reads several files.
static THREADS: LazyLock<usize> =
    LazyLock::new(|| available_parallelism().map_or(1, usize::from).min(MAX_THREADS));

/// The results in the order of the items. Items whose work panics are left out.
pub(super) async fn map<T, R>(mut items: Vec<T>, work: impl Fn(T) -> R + Clone + Send + 'static) -> Vec<R>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let size = items.len().div_ceil(*THREADS).max(MIN_ITEMS);
    let mut tasks = Vec::new();
    while !items.is_empty() {
        let rest = items.split_off(items.len().min(size));
        let part = std::mem::replace(&mut items, rest);
        let work = work.clone();
        tasks.push(spawn_blocking(move || part.into_iter().map(work).collect::<Vec<_>>()));
    }
    let mut results = Vec::new();
    for task in tasks {
        results.extend(task.await.unwrap_or_default());
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_and_the_order_stays() {
        for length in [0, 1, MIN_ITEMS, MIN_ITEMS + 1, 1000] {
            let results = map((0..length).collect(), |item| item * 2).await;
            assert_eq!(results, (0..length).map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}
