//! Bytes that are ready for the wire pass the codec by.
//!
//! What a crowd's follower gets lies in memory once, as the message it is on the wire. Tonic would copy it into a buffer of each
//! call; here the response's body hands it to HTTP/2 as it is, whenever the codec has nothing to say.
//!
//! This is around all of the server's services, because a router puts every response's body into boxes of its own, one in another: of ten
//! thousand calls each of them is a place in memory that no cache holds.

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
use tower::Layer;

use super::company::{Follower, Passed};
use super::dozing::Bell;

type Request = http::Request<Body>;
type Response = http::Response<Passing>;

/// What is around services whose responses may have a [`Lane`].
#[derive(Clone, Copy)]
pub(super) struct Express;

/// Services with that.
#[derive(Clone)]
pub(super) struct WithLanes<S>(S);

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
pub(super) struct Passing {
    /// In place: to look for it elsewhere would be another miss of the cache for every piece.
    follower: Option<Follower>,
    /// Who polled the codec last, and is woken when it has something.
    waker: Option<Waker>,
    lane: Option<Lane>,
    codec: Body,
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

impl<S> Layer<S> for Express {
    type Service = WithLanes<S>;

    fn layer(&self, services: S) -> WithLanes<S> {
        WithLanes(services)
    }
}

impl<S: Service<Request, Response = http::Response<Body>>> Service<Request> for WithLanes<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(http::Response<Body>) -> Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.0.call(request).map_ok(with_lane)
    }
}

fn with_lane(mut response: http::Response<Body>) -> Response {
    let lane = response.extensions_mut().remove::<Lane>();
    response.map(|codec| Passing { follower: None, waker: None, lane, codec })
}

impl hyper::body::Body for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { follower, waker, lane, codec } = &mut *self;
        let Some(lane) = lane else { return Pin::new(codec).poll_frame(context) };
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
            *follower = lane.follower.lock().take().map(|follower| *follower);
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
        // Asked behind every piece, and to look at the codec for that is as much as to poll it.
        self.follower.is_none() && self.codec.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.lane.is_some() { SizeHint::default() } else { self.codec.size_hint() }
    }
}
