//! What passes the gate and what does not; and that it reads archives as the `tar` crate does.

use std::io::Read;

use flate2::Compression;
use flate2::read::MultiGzDecoder as ReadDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::{Archive, Builder, EntryType, Header as TarHeader};

use super::super::tests::block_on;
use super::contents::HARMLESS_BYTES;
use super::*;

const LIMITS: ArchiveLimits = ArchiveLimits { entries_max: 50, unpacked_bytes_max: 1 << 30 };

/// An entry of an archive in the making. The names are written as they are, whatever the library thinks of them.
#[derive(Clone, Debug)]
struct Item {
    kind: EntryType,
    path: String,
    link: String,
    content: Vec<u8>,
}

fn item(kind: EntryType, path: &str, link: &str) -> Item {
    Item { kind, path: path.into(), link: link.into(), content: Vec::new() }
}

fn file(path: &str) -> Item {
    Item { content: path.as_bytes().to_vec(), ..item(EntryType::Regular, path, "") }
}

fn symlink(path: &str, target: &str) -> Item {
    item(EntryType::Symlink, path, target)
}

fn hard_link(path: &str, target: &str) -> Item {
    item(EntryType::Link, path, target)
}

fn put(field: &mut [u8], text: &str) {
    field[..text.len()].copy_from_slice(text.as_bytes());
}

fn header(kind: EntryType, path: &str, link: &str, size: u64) -> TarHeader {
    let mut header = TarHeader::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    put(&mut header.as_old_mut().name, path);
    put(&mut header.as_old_mut().linkname, link);
    header.set_cksum();
    header
}

fn extended(letter: u8, content: &[u8]) -> Vec<u8> {
    block_of(&header(EntryType::new(letter), "extended", "", content.len() as u64), content)
}

fn block_of(header: &TarHeader, content: &[u8]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// The archive without its end, long names as GNU has them.
fn open_tar(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        let short = |text: &str| text.get(..text.len().min(100)).unwrap_or_default().to_owned();
        if item.path.len() > 100 {
            bytes.extend(extended(b'L', format!("{}\0", item.path).as_bytes()));
        }
        if item.link.len() > 100 {
            bytes.extend(extended(b'K', format!("{}\0", item.link).as_bytes()));
        }
        let (path, link) = (short(&item.path), short(&item.link));
        bytes.extend(block_of(&header(item.kind, &path, &link, item.content.len() as u64), &item.content));
    }
    bytes
}

fn tar(items: &[Item]) -> Vec<u8> {
    [open_tar(items), vec![0; 1024]].concat()
}

fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = (1..5).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
    format!("{} {key}={value}\n", rest + digits).into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Sends files through one gate, in pieces; the refusal, or how many entries there were.
fn pass_with(limits: ArchiveLimits, files: &[(&str, &[u8])], piece: usize) -> Result<u32, String> {
    block_on(async {
        let mut gate = ArchiveGate::new(Inspect::Tar(limits));
        let text = |error: UploadError<io::Error>| error.to_string();
        for (name, bytes) in files {
            let mut passing = gate.begin(name);
            for chunk in bytes.chunks(piece) {
                passing.take(chunk).await.map_err(text)?;
            }
            gate.end(passing).await.map_err(text)?;
        }
        Ok(gate.contents.expect("it inspects").entries())
    })
}

fn pass(tar: &[u8]) -> Result<u32, String> {
    pass_with(LIMITS, &[("job.tar.gz", &gzip(tar))], 7000)
}

#[track_caller]
fn refuses(tar: &[u8], words: &[&str]) {
    let why = pass(tar).expect_err("it passes");
    assert!(why.starts_with("`files` holds"), "{why}");
    assert!(words.iter().all(|word| why.contains(word)), "{words:?}: {why}");
}

#[test]
fn an_honest_archive_passes() {
    let items = [
        item(EntryType::Directory, "./", ""),
        item(EntryType::Directory, "./src/", ""),
        file("./src/main.py"),
        file(&format!("{}/deep.txt", "long/".repeat(40))),
        symlink("src/current", "main.py"),
        symlink("src/lib/up", "../../data/x"),
        symlink("root", "."),
        hard_link("copy", "src/main.py"),
        file("a..b/..c/d.."),
    ];
    assert_eq!(pass(&tar(&items)), Ok(9));
    assert_eq!(pass(&open_tar(&items)), Ok(9), "without its end");
    assert_eq!(pass(&[tar(&items), vec![0; 9 * 1024]].concat()), Ok(9), "padded");
    assert_eq!(pass(&[]), Ok(0));
}

#[test]
fn what_is_no_archive_by_name_or_content_passes_untouched() {
    let bomb = gzip(&tar(&[file("../x")]));
    for (name, bytes) in [
        ("data.bin", bomb.as_slice()),
        ("job.tar.gz.txt", &bomb),
        ("job.tar.gz", b"----Tar\nPath: main.py\nSize: 1\n\n1"),
        ("job.tgz", b""),
        ("job.tgz", b"\x1f"),
    ] {
        assert_eq!(pass_with(LIMITS, &[(name, bytes)], 100), Ok(0), "{name}");
    }
    assert!(pass_with(LIMITS, &[("JOB.TGZ", &bomb)], 100).is_err());
    let whole = ArchiveGate::new(Inspect::Nothing);
    assert!(whole.contents.is_none());
}

#[test]
fn paths_that_leave_the_directory_are_refused_by_name() {
    for path in ["../x", "a/../../x", "a/..", "..", "./../x"] {
        refuses(&tar(&[file("ok"), file(path)]), &[path, "`..`"]);
    }
    refuses(&tar(&[file("/etc/passwd")]), &["/etc/passwd", "absolute"]);
    let long = format!("{}/../../../x", "a/".repeat(100));
    refuses(&tar(&[file(&long)]), &["`..`"]);
    refuses(&[extended(b'x', &pax("path", "/abs")), tar(&[file("ok")])].concat(), &["/abs", "absolute"]);
    refuses(&[extended(b'x', &pax("path", "a\0b")), tar(&[file("ok")])].concat(), &["NUL"]);
    refuses(
        &[extended(b'x', &pax("GNU.sparse.name", "../x")), tar(&[file("ok")])].concat(),
        &["../x", "`..`"],
    );
    // Which one counts is up to the reader.
    let both = [extended(b'x', &pax("path", "../x")), extended(b'L', b"fine\0"), tar(&[file("ok")])].concat();
    refuses(&both, &["`..`"]);
    let mut posix = TarHeader::new_ustar();
    put(&mut posix.as_old_mut().name, "x");
    put(&mut posix.as_ustar_mut().unwrap().prefix, "a/..");
    posix.set_size(0);
    posix.set_cksum();
    refuses(&block_of(&posix, b""), &["a/../x", "`..`"]);
}

#[test]
fn names_that_readers_take_differently_are_refused() {
    // Where the name ends, and what of it counts.
    refuses(&[extended(b'L', b"a\0/../../x\0"), tar(&[file("ok")])].concat(), &["NUL"]);
    refuses(&[extended(b'K', b"a\0/../../x\0"), tar(&[symlink("l", "ok")])].concat(), &["leaves"]);
    let prefixed = |prefix: &str, path: &str, link: &str, magic: &[u8; 8]| {
        let mut header = header(EntryType::Symlink, path, link, 0);
        let bytes = header.as_mut_bytes();
        bytes[257..265].copy_from_slice(magic);
        put(&mut bytes[345..500], prefix);
        header.set_cksum();
        block_of(&header, b"")
    };
    assert_eq!(pass(&prefixed("a/b", "c", "../../d", b"ustar\x0000")), Ok(1));
    for magic in [b"ustar  \0", b"ustar\x0007", &[0; 8]] {
        assert_eq!(pass(&prefixed("a", "b/c", "../d", magic)), Ok(1));
        refuses(&prefixed("a", "/etc/x", "y", magic), &["absolute"]);
        refuses(&prefixed("..", "x", "y", magic), &["`..`"]);
        refuses(&prefixed("a/b", "x", "../../y", magic), &["leaves"]);
    }
}

#[test]
fn links_that_leave_the_directory_are_refused_by_name() {
    for (path, target) in [
        ("l", "/etc"),
        ("l", ".."),
        ("a/l", "../.."),
        ("a/l", "../../x"),
        ("a/b/l", "x/../../../.."),
        ("a/b/l", "x/.."),
    ] {
        refuses(&tar(&[symlink(path, target)]), &[path, "link", target]);
    }
    for target in ["/etc/passwd", "../x", "a/../../x"] {
        refuses(&tar(&[hard_link("l", target)]), &["\"l\"", "link", target]);
    }
    let records = extended(b'x', &pax("linkpath", "../../x"));
    refuses(&[records, tar(&[symlink("a/l", "b")])].concat(), &["a/l", "../../x"]);
    let long = format!("{}x", "../".repeat(60));
    refuses(&tar(&[symlink("a/l", &long)]), &["a/l", "link"]);
}

#[test]
fn links_that_lead_out_through_each_other_are_refused() {
    // Each of them alone stays inside.
    let up = symlink("a/b/up", "../..");
    refuses(&tar(&[up.clone(), symlink("a/b/up/l", "..")]), &["a/b/up/l", "below a symbolic link"]);
    refuses(&tar(&[up.clone(), file("a/b/./up//x")]), &["below a symbolic link"]);
    refuses(&tar(&[up.clone(), hard_link("l", "a/b/up")]), &["hard link", "a/b/up"]);
    refuses(&tar(&[up.clone(), hard_link("l", "a/b/up/x")]), &["hard link"]);
    let (one, other) = (gzip(&tar(&[up])), gzip(&tar(&[file("a/b/up/x")])));
    let two = pass_with(LIMITS, &[("1.tgz", &one), ("2.tgz", &other)], 1000);
    assert!(two.unwrap_err().contains("below a symbolic link"), "in two archives of one job");
}

#[test]
fn what_is_no_file_directory_or_link_is_refused_by_name() {
    for (kind, word) in [
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "pipe"),
        (EntryType::new(b'V'), "kind"),
        (EntryType::new(b'M'), "kind"),
    ] {
        refuses(&tar(&[item(kind, "dev/thing", "")]), &["dev/thing", word]);
    }
    let sized = Item { content: vec![1; 600], ..item(EntryType::Symlink, "l", "x") };
    refuses(&tar(&[sized]), &["\"l\"", "size"]);
    let sized = Item { content: vec![1; 600], ..item(EntryType::Regular, "d/", "") };
    refuses(&tar(&[sized]), &["\"d/\"", "size"]);
}

#[test]
fn more_entries_or_bytes_than_allowed_are_refused_by_name() {
    let many: Vec<Item> = (0..51).map(|n| file(&format!("f{n}"))).collect();
    assert_eq!(pass(&tar(&many[..50])), Ok(50));
    refuses(&tar(&many), &["f50", "limit of 50 entries"]);
    let huge = TarHeader::new_gnu();
    let lie = |size: u64| {
        let mut header = huge.clone();
        put(&mut header.as_old_mut().name, "lie");
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    refuses(&lie(2 << 30), &["lie", "limit of"]);
    refuses(&lie(u64::MAX), &["lie", "limit of"]);
    refuses(&[extended(b'x', &pax("size", "99999999999")), tar(&[file("f")])].concat(), &["limit of"]);
    refuses(
        &[extended(b'x', &pax("GNU.sparse.realsize", "99999999999")), tar(&[file("f")])].concat(),
        &["limit of"],
    );
    refuses(&[extended(b'g', &pax("path", "x")), tar(&[file("f")])].concat(), &["for all entries"]);
    refuses(&extended(b'x', &vec![b'a'; 100_000]), &["extended header"]);
}

#[test]
fn an_entry_that_is_named_again_and_again_is_refused_before_it_is_held() {
    let named = |times: usize, header: Vec<u8>| [header.repeat(times), tar(&[symlink("l", "x")])].concat();
    for header in [extended(b'L', b"name\0"), extended(b'K', b"to\0"), extended(b'x', &pax("path", "name"))] {
        assert_eq!(pass(&named(8, header.clone())), Ok(1));
        refuses(&named(9, header), &["more than 8 times"]);
    }
    refuses(&extended(b'x', &pax("linkpath", "to").repeat(9)), &["more than 8 times"]);
}

#[test]
fn a_bomb_is_refused_where_it_goes_past_the_ratio() {
    let zeros = vec![0; (HARMLESS_BYTES + HARMLESS_BYTES / 2) as usize];
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&tar(&[Item { content: zeros, ..file("zeros") }])).unwrap();
    let why = pass_with(LIMITS, &[("a.tgz", &encoder.finish().unwrap())], 7000).unwrap_err();
    assert!(why.contains("zeros") && why.contains("200 times"), "{why}");
    let small = tar(&[Item { content: vec![0; 1 << 20], ..file("zeros") }]);
    assert_eq!(pass(&small), Ok(1));
    let limits = ArchiveLimits { unpacked_bytes_max: 1 << 20, ..LIMITS };
    let why = pass_with(limits, &[("a.tgz", &gzip(&small))], 1000).unwrap_err();
    assert!(why.contains("zeros") && why.contains("1048576"), "{why}");
    // Both count towards the same.
    let half = gzip(&tar(&[Item { content: vec![0; 600 << 10], ..file("half") }]));
    assert!(pass_with(limits, &[("a.tgz", &half), ("b.tgz", &half)], 1000).is_err());
}

#[test]
fn sparse_files_are_followed_and_count_with_their_holes() {
    let sparse = |real_size: u64, maps: usize| {
        let mut header = header(EntryType::GNUSparse, "sparse", "", 600);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.isextended[0] = u8::from(maps > 0);
        put(&mut gnu.realsize, &format!("{real_size:011o}"));
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        for map in 0..maps {
            let mut block = [0; 512];
            block[504] = u8::from(map + 1 < maps);
            bytes.extend_from_slice(&block);
        }
        bytes.extend_from_slice(&[1; 600]);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        [bytes, tar(&[file("next")])].concat()
    };
    for maps in 0..3 {
        assert_eq!(pass(&sparse(1 << 20, maps)), Ok(2), "{maps}");
    }
    refuses(&sparse(2 << 30, 0), &["sparse", "limit of"]);
}

#[test]
fn an_archive_that_is_not_whole_is_refused() {
    let whole = tar(&[file("a"), Item { content: vec![7; 3000], ..file("b") }]);
    refuses(&whole[..2500], &["\"b\"", "breaks off"]);
    refuses(&whole[..700], &["\"a\"", "breaks off"]);
    refuses(&[b"x".repeat(600), whole.clone()].concat(), &["no tar archive"]);
    refuses(&[whole.clone(), tar(&[file("behind")])].concat(), &["behind its end"]);
    refuses(&extended(b'L', b"name\0"), &["breaks off"]);
    refuses(&[extended(b'x', b"99 path=x\n"), whole.clone()].concat(), &["pax"]);
    let gz = gzip(&whole);
    for (gz, what) in [
        (gz[..gz.len() - 9].to_vec(), "cut"),
        (gz[..gz.len() - 3].to_vec(), "without all of its checksum"),
        ([&gz[..gz.len() - 8], &[0; 8]].concat(), "with a wrong checksum"),
        ([&gz[..], b"garbage"].concat(), "with garbage behind it"),
    ] {
        let why = pass_with(LIMITS, &[("a.tar.gz", &gz)], 100).expect_err(what);
        assert!(why.contains("no whole gzip"), "{what}: {why}");
    }
}

#[test]
fn members_of_a_gzip_are_one_archive() {
    let whole = tar(&[file("a"), file("../b")]);
    let (first, second) = whole.split_at(700);
    let members = [gzip(first), gzip(second)].concat();
    let why = pass_with(LIMITS, &[("a.tgz", &members)], 11).unwrap_err();
    assert!(why.contains("../b"), "{why}");
    // Nothing that comes behind an end that is one for some readers.
    let hidden = [gzip(&tar(&[file("a")])), gzip(&tar(&[file("b")]))].concat();
    assert!(pass_with(LIMITS, &[("a.tgz", &hidden)], 11).unwrap_err().contains("behind its end"));
}

fn any_item() -> impl Strategy<Value = Item> {
    let kinds = prop_oneof![
        4 => Just(EntryType::Regular),
        1 => Just(EntryType::Directory),
        1 => Just(EntryType::Symlink),
        1 => Just(EntryType::Link),
    ];
    let path = prop_oneof!["[a-z]{1,8}(/[a-z]{1,8}){0,3}", "[a-z]{60,90}/[a-z]{30,90}/[a-z]{1,9}"];
    (kinds, path, "[a-z]{1,9}(/[a-z]{1,9}){0,40}", proptest::collection::vec(any::<u8>(), 0..2000)).prop_map(
        |(kind, path, link, content)| Item {
            kind,
            path,
            link: if matches!(kind, EntryType::Symlink | EntryType::Link) { link } else { String::new() },
            content: if kind == EntryType::Regular { content } else { Vec::new() },
        },
    )
}

/// The names that the `tar` crate finds.
fn names(gz: &[u8]) -> Vec<String> {
    let mut archive = Archive::new(ReadDecoder::new(gz));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        io::copy(&mut entry, &mut io::sink()).unwrap();
        String::from_utf8(entry.path_bytes().into_owned()).unwrap()
    });
    entries.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_finds_as_many_entries_as_the_tar_crate(
        items in proptest::collection::vec(any_item(), 0..12),
        piece in 1_usize..3000,
        cut in any::<proptest::sample::Index>(),
    ) {
        let tar = tar(&items);
        let at = cut.index(tar.len() + 1);
        let gz = [gzip(&tar[..at]), gzip(&tar[at..])].concat();
        match pass_with(LIMITS, &[("a.tar.gz", &gz)], piece) {
            Ok(entries) => prop_assert_eq!(entries as usize, names(&gz).len()),
            // A random name may lie below a random link.
            Err(why) => prop_assert!(why.contains("symbolic link"), "{}", why),
        }
    }

    #[test]
    fn it_names_the_entry_that_the_tar_crate_would_unpack_elsewhere(
        items in proptest::collection::vec(any_item(), 1..8),
        at in any::<proptest::sample::Index>(),
        piece in 1_usize..3000,
    ) {
        let mut items = items;
        items.retain(|item| item.kind != EntryType::Symlink);
        let at = at.index(items.len() + 1);
        items.insert(at, file("up/../../escape"));
        let gz = gzip(&tar(&items));
        prop_assert!(names(&gz).iter().any(|name| name == "up/../../escape"));
        let why = pass_with(LIMITS, &[("a.tar.gz", &gz)], piece).unwrap_err();
        prop_assert!(why.contains("up/../../escape"), "{}", why);
    }

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..4000), piece in 1_usize..700) {
        let _ = pass(&bytes);
        bytes.splice(0..0, [0x1f, 0x8b]);
        let _ = pass_with(LIMITS, &[("a.tgz", &bytes)], piece);
    }

    #[test]
    fn no_damaged_archive_panics(
        items in proptest::collection::vec(any_item(), 1..5),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = tar(&items);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = pass(&bytes);
    }
}

#[test]
fn what_the_tar_crate_builds_passes() {
    let mut builder = Builder::new(Vec::new());
    let long = format!("{}/file", "directory".repeat(20));
    for path in ["plain", &long] {
        let mut header = TarHeader::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, &b"hello"[..]).unwrap();
    }
    builder.append_pax_extensions([("mtime", &b"1.5"[..]), ("comment", b"x")]).unwrap();
    let mut header = TarHeader::new_ustar();
    header.set_size(5);
    builder.append_data(&mut header, "after", &b"hello"[..]).unwrap();
    assert_eq!(pass(&builder.into_inner().unwrap()), Ok(3));
}

/// Not a test of a limit: run with `--ignored --nocapture` to see what the gate costs.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let mut text = Vec::new();
    (&mut io::repeat(b'x')).take(0).read_to_end(&mut text).unwrap();
    while text.len() < 100 << 20 {
        text.extend_from_slice(
            format!("{} is a line of a log, number {}\n", rand::random::<u32>(), text.len()).as_bytes(),
        );
    }
    let mut noise = vec![0; 100 << 20];
    rand::fill(&mut noise[..]);
    for (what, content) in [("text", text), ("noise", noise)] {
        let gz = gzip(&tar(&[Item { content, ..file("content") }]));
        let began = std::time::Instant::now();
        pass_with(LIMITS, &[("a.tgz", &gz)], 64 << 10).unwrap();
        let took = began.elapsed().as_secs_f64();
        let (packed, unpacked) = (gz.len() as f64 / 1e6 / took, 104.9 / took);
        println!(
            "{what}: {:.0} MB packed, {packed:.0} MB/s packed, {unpacked:.0} MB/s unpacked",
            gz.len() as f64 / 1e6
        );
    }
}
