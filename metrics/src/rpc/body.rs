//! The parts of a measured call that go on after the call has returned: its future and its body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Call;
use crate::trace::{Within, within};

pin_project! {
    /// The future of [`RpcService`].
    pub struct RpcFuture<F> {
        #[pin]
        inner: Within<F>,
        call: Option<Call>,
    }
}

impl<F: Future> RpcFuture<F> {
    pub(super) fn new(inner: F, call: Call) -> Self {
        Self { inner: within(call.span.as_parent(), inner), call: Some(call) }
    }
}

impl<F, R, E> Future for RpcFuture<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    R: Body,
{
    type Output = Result<http::Response<RpcBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let mut call = this.call.take();
        Poll::Ready(match result {
            Ok(response) => {
                if let Some(call) = &mut call {
                    call.see(response.headers());
                    if response.body().is_end_stream() && call.code == "Canceled" {
                        call.code = "Unknown";
                    }
                }
                Ok(response.map(|inner| RpcBody { inner, call }))
            }
            Err(error) => {
                if let Some(call) = &mut call {
                    call.code = "Internal";
                }
                Err(error)
            }
        })
    }
}

pin_project! {
    /// The body of a response. It ends the measurement with its last byte.
    pub struct RpcBody<R> {
        #[pin]
        inner: R,
        call: Option<Call>,
    }
}

impl<R: Body> Body for RpcBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(trailers), Some(call)) = (frame.trailers_ref(), this.call.as_mut()) {
                    call.see(trailers);
                    *this.call = None;
                }
            }
            Some(Err(_)) => {
                if let Some(mut call) = this.call.take() {
                    call.code = "Internal";
                }
            }
            None => *this.call = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
