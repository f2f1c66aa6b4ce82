//! Who a worker is.

pub mod identity;
