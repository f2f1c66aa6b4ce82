//! Reading tar files.
//!
//! Entries are read raw and their extended headers here, because the library reads a header of any size into memory:
//! a few kilobytes of gzip could ask for gigabytes.

use std::fs::File;
use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::{LinkKind, UnpackError, Unpacker, refuse};

/// Largest extended header (a long name, a set of pax records) taken, in bytes: many times the longest path.
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;

/// What extended headers say about the entry that follows them.
#[derive(Default)]
struct Extension {
    path: Option<String>,
    link: Option<String>,
    sparse: bool,
}

pub(super) fn unpack(file: File, into: &mut Unpacker) -> Result<(), UnpackError> {
    // The decoder reads single bytes of the gzip header, so the file needs a buffer.
    let mut archive = Archive::new(MultiGzDecoder::new(io::BufReader::new(file)));
    let mut extension = Extension::default();
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => extension.path = Some(text(extended(&mut entry)?)?),
            EntryType::GNULongLink => extension.link = Some(text(extended(&mut entry)?)?),
            EntryType::XHeader => extension.read_pax(&extended(&mut entry)?)?,
            EntryType::XGlobalHeader => drop(extended(&mut entry)?),
            _ => place(&mut entry, std::mem::take(&mut extension), into)?,
        }
    }
    Ok(())
}

fn place<R: Read>(
    entry: &mut Entry<'_, R>,
    extension: Extension,
    into: &mut Unpacker,
) -> Result<(), UnpackError> {
    let header = entry.header();
    let name = match extension.path {
        Some(name) => name,
        None => text(header.path_bytes().into_owned())?,
    };
    let link = match extension.link {
        Some(link) => link,
        None => text(header.link_name_bytes().unwrap_or_default().into_owned())?,
    };
    if extension.sparse {
        return Err(refuse(&name, "sparse files are not supported; pack without --sparse"));
    }
    match header.entry_type() {
        // Old archives mark a directory by its slash alone.
        EntryType::Regular | EntryType::Continuous if !name.ends_with('/') => {
            let mode = header.mode().map_err(damaged)?;
            into.place_file(&name, mode, entry)
        }
        EntryType::Directory | EntryType::Regular | EntryType::Continuous => into.place_dir(&name),
        EntryType::Symlink => into.defer_link(&name, &link, LinkKind::Symbolic),
        EntryType::Link => into.defer_link(&name, &link, LinkKind::Hard),
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            Err(refuse(&name, "devices and pipes are not allowed"))
        }
        EntryType::GNUSparse => Err(refuse(&name, "sparse files are not supported; pack without --sparse")),
        other => {
            Err(refuse(&name, format!("entries of type {:?} are not supported", other.as_byte() as char)))
        }
    }
}

impl Extension {
    fn read_pax(&mut self, records: &[u8]) -> Result<(), UnpackError> {
        for record in PaxExtensions::new(records) {
            let record = record.map_err(damaged)?;
            match record.key_bytes() {
                b"path" => self.path = Some(text(record.value_bytes().to_vec())?),
                b"linkpath" => self.link = Some(text(record.value_bytes().to_vec())?),
                // The header's own size field holds 8 GiB: a larger file is over any limit here.
                b"size" => return Err(UnpackError::Damaged("an entry larger than 8 GiB".into())),
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

fn extended<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, UnpackError> {
    if entry.size() > EXTENSION_BYTES_MAX {
        return Err(UnpackError::Damaged(format!("an extended header of {} bytes", entry.size())));
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content).map_err(damaged)?;
    Ok(content)
}

/// Names are text here, because URLs and JSON have to name them too. A long name ends with a NUL.
fn text(mut bytes: Vec<u8>) -> Result<String, UnpackError> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|error| {
        let name = String::from_utf8_lossy(error.as_bytes()).into_owned();
        refuse(&name, "its name is not UTF-8")
    })
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> UnpackError {
    UnpackError::Damaged(error.into().to_string())
}
