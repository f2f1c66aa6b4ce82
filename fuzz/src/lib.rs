//! What several targets share: cutting an input where the input says, and the pool's side of an upload.

pub mod cut;
pub mod upload;
