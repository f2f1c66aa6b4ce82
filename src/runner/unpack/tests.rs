use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};
use zip::write::SimpleFileOptions;

use super::*;

const LIMITS: Limits = Limits { entries: 10, bytes: 1000 };

/// One tar entry: type, name, link target, content.
type TarEntry<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

fn tarball(entries: &[TarEntry]) -> Vec<u8> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (kind, name, target, content) in entries {
        let mut header = Header::new_gnu();
        // The library refuses to write the names that must be refused on reading.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn unpack(bytes: &[u8], kind: ArchiveKind) -> (tempfile::TempDir, Result<(), UnpackError>) {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    fs::write(&archive, bytes).unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let result = Unpacker::new(&WorkDir::new(&root).unwrap(), LIMITS).unpack(&archive, kind);
    (dir, result)
}

fn refused(bytes: &[u8], kind: ArchiveKind) -> String {
    let (dir, result) = unpack(bytes, kind);
    let outside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(outside.len(), 2, "only the archive and the root: {outside:?}");
    result.expect_err("this archive must be refused").to_string()
}

#[test]
fn tarball_unpacks_files_directories_and_links_that_stay_inside() {
    let bytes = tarball(&[
        (EntryType::Symlink, "links/first", "../data/a.txt", b""),
        (EntryType::Directory, "./", "", b""),
        (EntryType::Directory, "data/", "", b""),
        (EntryType::Regular, "./data/a.txt", "", b"one"),
        (EntryType::Link, "data/hard", "data/a.txt", b""),
    ]);
    let (dir, result) = unpack(&bytes, ArchiveKind::TarGz);
    result.unwrap();
    let root = dir.path().join("root");
    for file in ["data/a.txt", "data/hard", "links/first"] {
        assert_eq!(fs::read_to_string(root.join(file)).unwrap(), "one", "{file}");
    }
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(root.join("data/a.txt")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn tarball_entries_that_leave_the_root_are_refused_by_name() {
    use EntryType::{Fifo, Link, Regular, Symlink};
    let cases: &[&[TarEntry]] = &[
        &[(Regular, "../bad", "", b"x")],
        &[(Regular, "/bad", "", b"x")],
        &[(Regular, "a/../../bad", "", b"x")],
        &[(Symlink, "bad", "/etc/passwd", b"")],
        &[(Symlink, "bad", "../archive", b"")],
        &[(Link, "bad", "../archive", b"")],
        &[(Link, "bad", "/etc/passwd", b"")],
        &[(Fifo, "bad", "", b"")],
        &[(EntryType::Char, "bad", "", b"")],
        // Harmless by its text, but "a/b/up" is the root, so two more steps leave it.
        &[(Symlink, "a/b/up", "../..", b""), (Symlink, "bad", "a/b/up/../../tmp", b"")],
        // A file written through a link.
        &[(Symlink, "bad", "..", b""), (Regular, "bad/archive", "", b"x")],
    ];
    for case in cases {
        let error = refused(&tarball(case), ArchiveKind::TarGz);
        assert!(error.contains("bad"), "{error}");
    }
}

#[test]
fn later_archive_does_not_write_through_links_of_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("inside")).unwrap();
    symlink(dir.path(), root.join("out")).unwrap();
    let archive = dir.path().join("archive");
    fs::write(&archive, tarball(&[(EntryType::Regular, "out/bad", "", b"x")])).unwrap();
    let error = Unpacker::new(&WorkDir::new(&root).unwrap(), LIMITS)
        .unpack(&archive, ArchiveKind::TarGz)
        .unwrap_err()
        .to_string();
    assert!(error.contains("through a link"), "{error}");
    assert!(!dir.path().join("bad").exists());
}

#[test]
fn limits_name_the_entry_that_passes_them() {
    let large =
        tarball(&[(EntryType::Regular, "ok", "", &[0; 600]), (EntryType::Regular, "large", "", &[0; 401])]);
    assert!(refused(&large, ArchiveKind::TarGz).contains("\"large\""));

    let names: Vec<String> = (0..11).map(|n| format!("f{n}")).collect();
    let many: Vec<TarEntry> = names.iter().map(|name| (EntryType::Regular, &**name, "", &b""[..])).collect();
    assert!(refused(&tarball(&many), ArchiveKind::TarGz).contains("\"f10\""));
}

#[test]
fn long_names_are_read_and_oversized_extensions_refused() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let (dir, result) = unpack(&builder.into_inner().unwrap().finish().unwrap(), ArchiveKind::TarGz);
    result.unwrap();
    assert!(dir.path().join("root").join(&long).is_file());

    let bomb = tarball(&[(EntryType::GNULongName, "././@LongLink", "", &vec![b'a'; 1 << 20])]);
    assert!(refused(&bomb, ArchiveKind::TarGz).contains("extended header"));
}

#[test]
fn pax_names_are_read() {
    let record = b"18 path=real name\n";
    let bytes = tarball(&[(EntryType::XHeader, "pax", "", record), (EntryType::Regular, "short", "", b"x")]);
    let (dir, result) = unpack(&bytes, ArchiveKind::TarGz);
    result.unwrap();
    assert!(dir.path().join("root/real name").is_file());
}

#[test]
fn what_is_no_archive_is_refused() {
    assert!(refused(b"----Tar\nPath: a\n", ArchiveKind::TarGz).contains("damaged"));
    assert!(refused(b"PK\x03\x04nonsense", ArchiveKind::Zip).contains("damaged"));
    let whole = tarball(&[(EntryType::Regular, "a", "", &[7; 900])]);
    assert!(refused(&whole[..whole.len() / 2], ArchiveKind::TarGz).contains("damaged"));
}

#[test]
fn zip_unpacks_and_refuses_like_a_tarball() {
    let zipped = |name: &str, target: Option<&str>| {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        match target {
            Some(target) => writer.add_symlink(name, target, SimpleFileOptions::default()).unwrap(),
            None => {
                writer.start_file(name, SimpleFileOptions::default().unix_permissions(0o755)).unwrap();
                writer.write_all(b"content").unwrap();
            }
        }
        writer.finish().unwrap().into_inner()
    };
    let (dir, result) = unpack(&zipped("dir/run me.sh", None), ArchiveKind::Zip);
    result.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("root/dir/run me.sh")).unwrap(), "content");
    for bad in [zipped("../bad", None), zipped("/bad", None), zipped("bad", Some("/etc/passwd"))] {
        assert!(refused(&bad, ArchiveKind::Zip).contains("bad"));
    }
}

#[test]
fn kind_follows_the_name() {
    for (name, kind) in [
        ("job.tar.gz", Some(ArchiveKind::TarGz)),
        ("JOB.TGZ", Some(ArchiveKind::TarGz)),
        ("a.zip", Some(ArchiveKind::Zip)),
        ("a.tar", None),
        ("main.py", None),
    ] {
        assert_eq!(ArchiveKind::of_name(name), kind, "{name}");
    }
}
