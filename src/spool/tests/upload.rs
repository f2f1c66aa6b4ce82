//! What is taken in comes out again.

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn a_body_cut_anywhere_is_the_same_upload() {
    let (_dir, spool) = spool();
    let tricky = b"\r\n--client-boundar\r\n--\r\r\n";
    let body = body(&[file("a.py", tricky), file("empty", b""), manifest(r#"{"entrypoint":"a.py"}"#)]);
    let whole = parse(&spool, &body).await.unwrap().sha256;
    for at in 0..=body.len() {
        let (head, tail) = body.split_at(at);
        let upload = parse_chunks(&spool, BOUNDARY, [head, tail].into_iter()).await.unwrap();
        assert_eq!(upload.sha256, whole, "cut at {at}");
        let work = upload.into_work(&job(1)).await.unwrap();
        let (files, _) = sent(&spool, &job(1), &work).await;
        assert_eq!(files, [("a.py".into(), tricky.to_vec()), ("empty".into(), vec![])], "cut at {at}");
    }
    let bytewise = parse_chunks(&spool, BOUNDARY, body.chunks(1)).await.unwrap();
    assert_eq!(bytewise.sha256, whole);
}

#[tokio::test]
async fn an_upload_may_be_parsed_by_any_thread() {
    let (_dir, spool) = spool();
    let parsed = tokio::spawn(async move {
        let source = body(&[file("main.py", b"x"), manifest("{}")]);
        let source = stream::iter([Ok::<_, io::Error>(Bytes::from(source))]);
        let upload = parse_upload(source, &encode::content_type(BOUNDARY), &LIMITS, &spool).await.unwrap();
        upload.into_work(&job(1)).await.unwrap()
    });
    assert!(matches!(parsed.await.unwrap().payload, Payload::Inline(_)));
}

#[tokio::test]
async fn preamble_epilogue_and_unknown_fields_change_nothing() {
    let (_dir, spool) = spool();
    let parts = [file("main.py", b"x"), manifest("{}")];
    let plain = parse(&spool, &body(&parts)).await.unwrap();
    let extra = [part("name=\"csrf\"", b"123"), part("filename=\"nameless\"", b"456")];
    let padded = [b"preamble\r\n", body(&[&extra[..], &parts[..]].concat()).as_slice(), b"epilogue"].concat();
    let padded = parse(&spool, &padded).await.unwrap();
    assert_eq!(padded.sha256, plain.sha256);
    assert_eq!(padded.writer.bytes(), plain.writer.bytes());
    assert_ne!(padded.boundary, plain.boundary);
}

#[tokio::test]
async fn small_payloads_stay_in_the_row_and_large_ones_are_files() {
    let (_dir, spool) = spool();
    for (n, length) in [(1, 0), (2, 60_000), (3, 70_000), (4, 600_000), (5, 3_000_000)] {
        let content: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let upload = parse(&spool, &body(&[file("main.py", &content), manifest("{}")])).await.unwrap();
        let work = upload.into_work(&job(n)).await.unwrap();
        assert_eq!(matches!(work.payload, Payload::Spooled { .. }), length > 65_000);
        assert_eq!(spool.path(&job(n)).exists(), length > 65_000);
        assert_eq!(sent(&spool, &job(n), &work).await.0, [("main.py".into(), content)]);
    }
    assert_eq!(entries(&spool), 3, "nothing is left in incoming");
}

#[tokio::test]
async fn the_digest_tells_apart_what_differs() {
    let (_dir, spool) = spool();
    let mut digests = std::collections::HashSet::new();
    for parts in [
        vec![file("main.py", b"ab"), manifest("{}")],
        vec![file("main.py", b"a"), file("b", b""), manifest("{}")],
        vec![file("main.py", b""), file("b", b"a"), manifest("{}")],
        vec![file("b", b"a"), file("main.py", b""), manifest("{}")],
        vec![file("main.py", b"ab"), manifest(r#"{"x":1}"#)],
    ] {
        let upload = parse(&spool, &body(&parts)).await.unwrap();
        assert!(digests.insert(upload.sha256));
    }
}

fn contents() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let near_boundary = prop::collection::vec(
        prop::sample::select(vec!["\r", "\n", "\r\n", "-", "--", "client-boundar", "B", "\0", "x"]),
        0..12,
    );
    let content = prop_oneof![
        near_boundary.prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..300),
    ];
    prop::collection::vec(content, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_goes_in_comes_out(
        contents in contents(),
        chunk in 1_usize..100,
        boundary in "[A-Za-z0-9'()+_,./:=?-]{1,70}",
    ) {
        // The client's part of the bargain: a boundary that its files do not contain.
        let delimiter = format!("--{boundary}");
        prop_assume!(contents.iter().all(|c| find(c, delimiter.as_bytes()).is_none()));
        let quoted = format!("\"{boundary}\"");
        let mut theirs = Vec::new();
        let mut ours = Vec::new();
        for (n, content) in contents.iter().enumerate() {
            theirs.extend(part_of(&boundary, &format!("name=\"files\"; filename=\"d/{n}.py\""), content));
            ours.push(file(&format!("{n}.py"), content));
        }
        let json = r#"{"entrypoint":"0.py"}"#;
        theirs.extend(part_of(&boundary, "name=\"manifest\"", json.as_bytes()));
        theirs.extend(format!("--{boundary}--").into_bytes());
        ours.push(manifest(json));
        let (files, manifest, same) = block_on(async {
            let (_dir, spool) = spool();
            let upload = parse_chunks(&spool, &quoted, theirs.chunks(chunk)).await.unwrap();
            let same = match parse(&spool, &body(&ours)).await {
                Ok(again) => again.sha256 == upload.sha256,
                // By chance, a content that the other boundary occurs in.
                Err(_) => true,
            };
            let work = upload.into_work(&job(1)).await.unwrap();
            let (files, manifest) = sent(&spool, &job(1), &work).await;
            (files, manifest, same)
        });
        prop_assert!(same);
        prop_assert_eq!(manifest, json);
        prop_assert!(files.iter().map(|(_, content)| content).eq(&contents));
        let names = (0..contents.len()).map(|n| format!("{n}.py"));
        prop_assert!(files.into_iter().map(|(name, _)| name).eq(names));
    }

    #[test]
    fn no_bytes_make_it_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "--client-boundary", "--", "\r\n", "\r\n\r\n", "Content-Disposition: form-data; ", "name=\"files\"",
                "; filename=\"a\"", "name=\"manifest\"", "filename=\"\\\"", "{}", "\"", "\0", "=", "name", "\u{fffd}",
            ]),
            0..30,
        ),
        chunk in 1_usize..50,
    ) {
        let (_dir, spool) = spool();
        let _ = block_on(parse_chunks(&spool, BOUNDARY, pieces.concat().as_bytes().chunks(chunk)));
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
