//! A job's manifest: what to run and how.

/// A checked manifest.
pub struct Manifest;
