//! Streamed lists: several messages, for lists that are too long for one.

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::Status;

/// A stream of response messages.
pub(super) type MessageStream<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Bytes of the items in one message: far below gRPC's 4 MiB. One item may be longer: pods and containers have
/// annotations of up to 256 KiB, and a client of the API may set more.
const BYTES_PER_MESSAGE: usize = 1 << 20;

/// Divides a list into messages. An empty list is one empty message, so that the client gets a response.
pub(super) fn in_messages<I, M>(items: Vec<I>, message: fn(Vec<I>) -> M) -> MessageStream<M>
where
    I: prost::Message + 'static,
    M: Send + 'static,
{
    let (mut messages, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let length = item.encoded_len();
        if bytes + length > BYTES_PER_MESSAGE && !group.is_empty() {
            messages.push(Ok(message(std::mem::take(&mut group))));
            bytes = 0;
        }
        bytes += length;
        group.push(item);
    }
    if messages.is_empty() || !group.is_empty() {
        messages.push(Ok(message(group)));
    }
    Box::pin(tokio_stream::iter(messages))
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    /// The lengths of the items of each message.
    async fn divided(lengths: &[usize]) -> Vec<Vec<usize>> {
        let items = lengths.iter().map(|length| "x".repeat(*length)).collect();
        let stream =
            in_messages(items, |items: Vec<String>| items.iter().map(String::len).collect::<Vec<_>>());
        stream.map(Result::unwrap).collect().await
    }

    #[tokio::test]
    async fn messages_are_below_the_limit_however_long_their_items_are() {
        assert_eq!(divided(&[]).await, [Vec::<usize>::new()]);
        assert_eq!(divided(&[1, 2, 3]).await, [[1, 2, 3]]);
        let (half, whole) = (BYTES_PER_MESSAGE / 2, BYTES_PER_MESSAGE);
        assert_eq!(divided(&[half, half, 1]).await, [vec![half], vec![half, 1]]);
        assert_eq!(divided(&[1, 2 * whole, 1]).await, [[1], [2 * whole], [1]]);
    }
}
