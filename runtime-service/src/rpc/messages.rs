//! Streamed lists: several messages, for lists that are too long for one.

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::Status;

/// A stream of response messages.
pub(super) type MessageStream<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Items per message: far below gRPC's 4 MiB even with long labels.
const ITEMS_PER_MESSAGE: usize = 200;

/// Divides a list into messages. An empty list is one empty message, so that the client gets a response.
pub(super) fn in_messages<I, M>(items: Vec<I>, message: fn(Vec<I>) -> M) -> MessageStream<M>
where
    I: Send + 'static,
    M: Send + 'static,
{
    in_messages_of(ITEMS_PER_MESSAGE, items, message)
}

/// As [`in_messages`], with at most `size` items in each.
pub(super) fn in_messages_of<I, M>(size: usize, items: Vec<I>, message: fn(Vec<I>) -> M) -> MessageStream<M>
where
    I: Send + 'static,
    M: Send + 'static,
{
    let mut messages = Vec::new();
    let mut items = items.into_iter().peekable();
    loop {
        messages.push(Ok(message(items.by_ref().take(size).collect())));
        if items.peek().is_none() {
            break;
        }
    }
    Box::pin(tokio_stream::iter(messages))
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn lists_are_divided_without_loss() {
        for length in [0, 1, ITEMS_PER_MESSAGE, ITEMS_PER_MESSAGE + 1, 3 * ITEMS_PER_MESSAGE] {
            let mut stream = in_messages((0..length).collect(), |items: Vec<usize>| items);
            let mut all = Vec::new();
            let mut messages = 0;
            while let Some(items) = stream.next().await {
                all.extend(items.unwrap());
                messages += 1;
            }
            assert_eq!(all, (0..length).collect::<Vec<_>>());
            assert_eq!(messages, length.div_ceil(ITEMS_PER_MESSAGE).max(1));
        }
    }
}
