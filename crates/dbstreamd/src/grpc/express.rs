//! Bytes that are ready for the wire pass the codec by.
//!
//! What a crowd's follower gets lies in memory once, as the message it is on the wire. Tonic would copy it into a buffer of each
//! call; here the response's body hands it to HTTP/2 as it is, whenever the codec has nothing to say.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use dbstreamd_log::LatencyHistogram;
use futures_util::TryFutureExt;
use futures_util::future::MapOk;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::company::{Follower, Passed};
use super::dozing::Bell;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// A gRPC service whose responses may have a [`Lane`].
#[derive(Clone)]
pub(super) struct Express<S>(pub(super) S);

/// The way by the codec of one response: whoever is put there is asked for bytes when everything before has left. The response has
/// it as an extension.
#[derive(Clone)]
pub(super) struct Lane {
    /// Rings when the codec's stream has something.
    bell: Arc<Bell>,
    follower: Arc<Mutex<Option<Box<Follower>>>>,
    visible_to_sent: LatencyHistogram,
}

/// A response's body: what the codec makes, and between that what comes by the lane.
struct Passing {
    codec: Body,
    lane: Lane,
    follower: Option<Box<Follower>>,
    /// Who polled the codec last, and is woken when it has something.
    waker: Option<Waker>,
}

impl Lane {
    pub(super) fn new(bell: Arc<Bell>, visible_to_sent: LatencyHistogram) -> Self {
        Self { bell, follower: Arc::default(), visible_to_sent }
    }

    /// To be called when the codec has been given everything that comes before, by its stream.
    pub(super) fn put(&self, follower: Box<Follower>) {
        *self.follower.lock() = Some(follower);
    }
}

impl<S: NamedService> NamedService for Express<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request, Response = Response>> Service<Request> for Express<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response) -> Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.0.call(request).map_ok(with_lane)
    }
}

fn with_lane(mut response: Response) -> Response {
    match response.extensions_mut().remove::<Lane>() {
        Some(lane) => response.map(|codec| Body::new(Passing { codec, lane, follower: None, waker: None })),
        None => response,
    }
}

impl hyper::body::Body for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { codec, lane, follower, waker } = &mut *self;
        let same = waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        // A subscription that ends says so by the codec. It lies deep: not to be touched for every piece.
        if follower.is_none() || !same || !lane.bell.is_silent() {
            if !same {
                *waker = Some(context.waker().clone());
            }
            if let Poll::Ready(frame) = Pin::new(codec).poll_frame(context) {
                return Poll::Ready(frame);
            }
        }
        if follower.is_none() {
            *follower = lane.follower.lock().take();
        }
        let Some(following) = follower else { return Poll::Pending };
        let bytes = match ready!(following.poll_next(context)) {
            Some(Passed::Schema(message)) => message,
            Some(Passed::Events(piece)) => {
                if let Some(visible_at) = following.visible_at(&piece) {
                    lane.visible_to_sent.observe(visible_at.elapsed());
                }
                piece.bytes().clone()
            }
            None => {
                // Its subscription has it again, and sends what comes next.
                *follower = None;
                return Poll::Pending;
            }
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.codec.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
