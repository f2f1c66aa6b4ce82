//! Coordinator for a private pool of trusted, sandboxed workers.
