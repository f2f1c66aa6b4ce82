//! The description of this API in the words of OpenAPI 3.1: people read it in a viewer, and generate clients from it.
//!
//! It is written by hand, in `openapi.json` beside this file, because most answers are: they are put together from pieces, some of
//! them a worker's, and no type of ours says the whole of one. What keeps it true are tests: here that it names exactly the calls,
//! codes and roles that there are, and in `tests/pool/openapi.rs` that real answers are as it says, each property of it seen.

#[cfg(test)]
pub(crate) mod tests;

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// The description, as JSON.
pub const DOCUMENT: &str = include_str!("openapi.json");

/// Its strong entity tag, with the quotes.
pub fn tag() -> &'static str {
    static TAG: LazyLock<String> = LazyLock::new(|| {
        let digest = Sha256::digest(DOCUMENT).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("\"{digest}\"")
    });
    &TAG
}
