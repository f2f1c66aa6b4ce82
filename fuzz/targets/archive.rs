//! What the archive gate says of an archive does not depend on how it was cut, costs a bounded amount of memory, and, where the archive
//! passes, another reader finds in it nothing that would be unpacked outside of the job's directory.
//!
//! An input that is no gzip is taken for a tar whose checksums are yet to be made, so that mutations get past them.
#![no_main]

use std::collections::HashSet;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use tar::{Archive, EntryType, Header};
use trusted_pool::spool::{ArchiveLimits, Inspect, UploadLimits};
use trusted_pool_fuzz::cut;
use trusted_pool_fuzz::upload::{outcome, submit};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const ARCHIVES: ArchiveLimits = ArchiveLimits { entries_max: 64, unpacked_bytes_max: 8 << 20 };
const LIMITS: UploadLimits =
    UploadLimits { body_bytes_max: 4 << 20, files_max: 2, inspect: Inspect::Tar(ARCHIVES) };

/// Beside the input itself: the batch for the decoder and its window, what an entry's extended headers say, and the names
/// of links.
const HELD_BYTES_MAX: usize = 2 << 20;

const HEAD: &[u8] = b"--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"job.tgz\"\r\n\r\n";
const TAIL: &[u8] = b"\r\n--b\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\r\n{}\r\n--b--\r\n";

const BLOCK_BYTES: usize = 512;

fuzz_target!(|input: &[u8]| {
    let (archive, lengths) = cut::split(input);
    let gz =
        if archive.starts_with(&[0x1f, 0x8b]) { archive.to_vec() } else { gzip(&with_checksums(archive)) };
    let body = [HEAD, &gz, TAIL].concat();
    let said = outcome(&submit("b", std::iter::once(&body[..]), &LIMITS));
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let said_of_pieces = outcome(&submit("b", lengths.pieces(&body), &LIMITS));
    let held = MEMORY.peak_usage().saturating_sub(before);
    assert!(held <= HELD_BYTES_MAX + 3 * body.len(), "{held} bytes for {}", body.len());
    assert_eq!(said_of_pieces, said);
    if said.is_ok() {
        stays_inside(&gz);
    }
});

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("it is written to memory");
    encoder.finish().expect("it is written to memory")
}

/// Gives each header its checksum, as far as the sizes in the headers tell where the next one is.
fn with_checksums(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + BLOCK_BYTES) {
        if block.iter().any(|byte| *byte != 0) {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
            let size = usize::try_from(header.entry_size().unwrap_or(0)).unwrap_or(usize::MAX);
            at = at.saturating_add(size.min(tar.len()).next_multiple_of(BLOCK_BYTES));
        }
        at += BLOCK_BYTES;
    }
    tar
}

/// Reads an archive as the `tar` crate does, up to where that gives up.
fn stays_inside(gz: &[u8]) {
    let mut archive = Archive::new(MultiGzDecoder::new(gz));
    let mut links = HashSet::new();
    let mut unpacked = 0;
    for (number, entry) in archive.entries().expect("nothing has been read").enumerate() {
        let Ok(mut entry) = entry else { return };
        assert!(number < ARCHIVES.entries_max as usize, "there are more entries than may be");
        let path = entry.path_bytes().into_owned();
        let names = names(&path);
        let above = &names[..names.len().saturating_sub(1)];
        assert!(!passes(&links, above), "{path:?} lies below a link");
        let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        match entry.header().entry_type() {
            EntryType::Symlink => {
                leads_inside(above.len(), &target);
                links.insert(names.iter().map(|name| name.to_vec()).collect::<Vec<_>>());
            }
            EntryType::Link => assert!(!passes(&links, &self::names(&target)), "{target:?} passes a link"),
            EntryType::Char | EntryType::Block | EntryType::Fifo => panic!("{path:?} is a device or a pipe"),
            _ => {}
        }
        let mut content = [0; 4096];
        while let Ok(read @ 1..) = entry.read(&mut content) {
            unpacked += read as u64;
            assert!(unpacked <= ARCHIVES.unpacked_bytes_max, "it unpacks to more than it may");
        }
    }
}

/// The names of a path, which must stay below where it begins.
fn names(path: &[u8]) -> Vec<&[u8]> {
    assert!(!path.starts_with(b"/") && !path.contains(&0), "{path:?}");
    let names: Vec<_> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    assert!(!names.contains(&&b".."[..]), "{path:?}");
    names
}

fn passes(links: &HashSet<Vec<Vec<u8>>>, names: &[&[u8]]) -> bool {
    (1..=names.len())
        .any(|length| links.contains(&names[..length].iter().map(|name| name.to_vec()).collect::<Vec<_>>()))
}

/// Follows the target of a link that is so many directories deep.
fn leads_inside(mut depth: usize, target: &[u8]) {
    assert!(!target.starts_with(b"/"), "{target:?}");
    for step in target.split(|byte| *byte == b'/') {
        match step {
            b"" | b"." => {}
            b".." => depth = depth.checked_sub(1).expect("a link leaves the root"),
            _ => depth += 1,
        }
    }
}
