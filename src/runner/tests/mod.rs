//! The worker as its clients meet it: over HTTP.

mod client;
mod lifecycle;
mod protocol;
mod walls;
