//! The tables, and how an older file is brought up to them.

use rusqlite::{Connection, TransactionBehavior};

use crate::store::StoreError;

/// The steps from an empty file to the present schema; a file's `user_version` counts those it has behind it.
const STEPS: [&str; 3] = [
    include_str!("../schema/0001.sql"),
    include_str!("../schema/0002.sql"),
    include_str!("../schema/0003.sql"),
];

/// The version of a file that has all of [`STEPS`] behind it.
pub const VERSION: u32 = STEPS.len() as u32;

/// Takes the steps that the file lacks, all or none of them.
pub fn apply(connection: &mut Connection) -> Result<(), StoreError> {
    let found = upgrade(connection)?;
    if found <= VERSION {
        return Ok(());
    }
    Err(StoreError::Broken(format!(
        "the file has schema version {found} and this program knows versions up to {VERSION}: \
         it was written by a newer program, which is the one to open it with"
    )))
}

/// Returns the version that was found; of a newer one nothing is touched.
fn upgrade(connection: &mut Connection) -> rusqlite::Result<u32> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?;
    if let Some(missing @ [_, ..]) = STEPS.get(found as usize..) {
        for step in missing {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    Ok(found)
}
