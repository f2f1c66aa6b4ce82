//! What is not taken says why, and leaves nothing.

use super::*;

fn good() -> [Vec<u8>; 2] {
    [file("main.py", b"x"), manifest("{}")]
}

/// The field of a refusal, and its message.
fn refused(body: &[u8]) -> (String, String) {
    let (_dir, spool) = spool();
    let error = block_on(parse(&spool, body)).unwrap_err();
    assert_eq!(entries(&spool), 0);
    match error {
        UploadError::BadRequest { field, message } => (field, message),
        UploadError::TooLarge { field, limit } => (field, format!("{limit}")),
        other => panic!("{other}"),
    }
}

#[test]
fn each_fault_is_named() {
    for (parts, field) in [
        (vec![], "files"),
        (vec![manifest("{}")], "files"),
        (vec![file("main.py", b"x")], "manifest"),
        (vec![file("main.py", b"x"), manifest("{}"), manifest("{}")], "manifest"),
        (vec![file("main.py", b"x"), manifest("[]")], "manifest"),
        (vec![file("main.py", b"x"), manifest(r#"{"args":"x"}"#)], "manifest.args"),
        (vec![file("tool.py", b"x"), manifest("{}")], "manifest.entrypoint"),
        (vec![part("name=\"files\"", b"x"), manifest("{}")], "files"),
        (vec![file("", b"x"), manifest("{}")], "files"),
        (vec![file("..", b"x"), manifest("{}")], "files"),
        (vec![file("a/main.py", b"x"), file("main.py", b"x"), manifest("{}")], "files"),
        (vec![file("job.tar.gz", b"----Tar\nPath: ../x\n"), manifest("{}")], "files"),
        (vec![part("name=\"priority\"", b"urgent")], "priority"),
        (vec![part("name=\"priority\"", b"low"), part("name=\"priority\"", b"low")], "priority"),
        (vec![part("name=\"Idempotency-Key\"", b" ")], "Idempotency-Key"),
        (vec![part("name=\"idempotency_key\"", b"\xff")], "idempotency_key"),
    ] {
        assert_eq!(refused(&body(&parts)).0, field);
    }
}

#[test]
fn each_limit_is_named() {
    let with = |extra: Vec<Vec<u8>>| body(&[&good()[..], &extra].concat());
    let files: Vec<_> = (0..4).map(|n| file(&n.to_string(), b"x")).collect();
    assert!(refused(&with(files)).1.contains("more than 4"));
    assert_eq!(refused(&with(vec![part("name=\"priority\"", &[b'x'; 65])])).1, "64");
    assert_eq!(refused(&with(vec![part("name=\"other\"", &vec![0; 65_537])])).1, "65536");
    assert_eq!(refused(&with(vec![part("name=\"other\"", b""); 33])).0, "other");
    assert_eq!(refused(&with(vec![part("name=\"idempotency_key\"", &[b'x'; 256])])).1, "255");
    assert_eq!(refused(&body(&[manifest(&" ".repeat((1 << 20) + 1))])).1, "1048576");
    let large = refused(&with(vec![file("large", &vec![0; 4 << 20])]));
    assert_eq!(large, ("body".into(), (4 << 20).to_string()));
}

#[test]
fn endless_heads_are_cut_off() {
    let header = format!("name=\"files\"; filename=\"{}\"", "x".repeat(1 << 20));
    assert_eq!(refused(&body(&[part(&header, b"")])).0, "part header");
    let preamble = [vec![b'-'; 1 << 20], body(&good())].concat();
    assert_eq!(refused(&preamble).0, "part header");
    let many: Vec<_> = (0..10_000).map(|n| part(&format!("name=\"f{n}\""), b"")).collect();
    assert_eq!(refused(&body(&many)).0, "f32");
    let epilogue = [body(&good()), vec![0; 4 << 20]].concat();
    assert_eq!(refused(&epilogue).0, "body");
}

#[test]
fn a_body_that_stops_early_is_refused_wherever_it_stops() {
    let body = body(&good());
    // The last line break is not missed.
    for length in 0..body.len() - 2 {
        assert_eq!(refused(&body[..length]).0, "body", "{length}");
    }
}

#[tokio::test]
async fn a_content_type_without_a_good_boundary_is_refused() {
    let (_dir, spool) = spool();
    let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
    for wrong in
        ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=\"\"", "\0", &long]
    {
        let source = stream::iter([Ok::<_, io::Error>(Bytes::from(body(&good())))]);
        match parse_upload(source, wrong, &LIMITS, &spool).await {
            Err(UploadError::BadRequest { field, .. }) => assert_eq!(field, "Content-Type"),
            other => panic!("{wrong}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_sources_own_error_comes_through() {
    let (_dir, spool) = spool();
    let half = Bytes::from(body(&good())[..80].to_vec());
    let source = stream::iter([Ok(half), Err(io::Error::from(io::ErrorKind::TimedOut))]);
    match parse_upload(source, &encode::content_type(BOUNDARY), &LIMITS, &spool).await {
        Err(UploadError::Body(cause)) => assert_eq!(cause.kind(), io::ErrorKind::TimedOut),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let of = |kind| UploadError::<io::Error>::from(io::Error::from(kind));
    assert!(matches!(of(io::ErrorKind::StorageFull), UploadError::DiskFull));
    assert!(matches!(of(io::ErrorKind::QuotaExceeded), UploadError::SpoolFull));
    let broken = UploadError::<io::Error>::from(io::Error::from(io::ErrorKind::PermissionDenied));
    assert!(matches!(broken, UploadError::Spool(_)));
}
