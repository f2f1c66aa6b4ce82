//! The worker as its clients meet it: over HTTP.

mod client;
mod environment;
mod files;
mod lifecycle;
mod limits;
mod live_log;
mod protocol;
mod tls;
mod walls;
