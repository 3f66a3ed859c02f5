//! A stream against a scripted source, because a real server cannot be made to lie, or to stand still at a given place; the
//! log is the real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod lying;
mod pausing;
mod resending;
mod source;
mod unpublished;
