//! Reading zip files.

use std::fs::File;
use std::io::{BufReader, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use super::{LinkKind, UnpackError, Unpacker, refuse};

/// Longest target of a symbolic link, in bytes: Linux's longest path.
const LINK_BYTES_MAX: u64 = 4096;

/// The file type in a Unix mode, and its values.
const TYPE_MASK: u32 = 0o170_000;
const TYPE_REGULAR: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;

/// Mode of a file whose archive does not say.
const DEFAULT_MODE: u32 = 0o644;

pub(super) fn unpack(file: File, into: &mut Unpacker) -> Result<(), UnpackError> {
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        let mode = entry.unix_mode().unwrap_or(DEFAULT_MODE);
        if entry.is_dir() {
            into.place_dir(&name)?;
            continue;
        }
        match mode & TYPE_MASK {
            // Zip files made on other systems have no type.
            0 | TYPE_REGULAR => into.place_file(&name, mode, &mut entry)?,
            TYPE_SYMLINK => {
                let mut target = String::new();
                entry
                    .take(LINK_BYTES_MAX)
                    .read_to_string(&mut target)
                    .map_err(|error| refuse(&name, format!("its link target cannot be read: {error}")))?;
                into.defer_link(&name, &target, LinkKind::Symbolic)?;
            }
            _ => return Err(refuse(&name, "devices and pipes are not allowed")),
        }
    }
    Ok(())
}

fn damaged(error: ZipError) -> UnpackError {
    match error {
        ZipError::Io(error) => UnpackError::Damaged(error.to_string()),
        other => UnpackError::Damaged(other.to_string()),
    }
}
