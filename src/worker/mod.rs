//! Who a worker is: its key, where it is reached, how much it takes. Pure.

pub mod identity;

pub use identity::WorkerKey;
