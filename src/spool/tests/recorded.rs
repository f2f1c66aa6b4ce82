//! Bodies as real clients send them: curl 7.88, requests 2.34 and httpx 0.28 recorded, browsers by their engines' rules.

use super::*;

use crate::job::Priority;

const SCRIPT: &[u8] = b"print(\"hi\")\n";

struct Received {
    files: Vec<(String, Vec<u8>)>,
    manifest: String,
    upload: (Option<Priority>, Option<String>),
}

async fn receive(recorded: &[u8]) -> Received {
    let (_dir, spool) = spool();
    let line = recorded.split(|byte| *byte == b'\r').next().unwrap();
    let boundary = std::str::from_utf8(&line[2..]).unwrap();
    let upload = parse_chunks(&spool, boundary, recorded.chunks(7)).await.unwrap();
    let told = (upload.priority, upload.idempotency_key.clone());
    let names = upload.file_names.clone();
    let work = upload.into_work(&job(1)).await.unwrap();
    let (files, manifest) = sent(&spool, &job(1), &work).await;
    assert!(names.iter().eq(files.iter().map(|(name, _)| name)));
    Received { files, manifest, upload: told }
}

fn is_gzip(file: &(String, Vec<u8>)) -> bool {
    file.0 == "job.tar.gz" && file.1.starts_with(b"\x1f\x8b\x08") && file.1.ends_with(&[0, 0x28, 0, 0])
}

#[tokio::test]
async fn curl() {
    let received = receive(include_bytes!("../testdata/curl.body")).await;
    assert!(is_gzip(&received.files[0]));
    assert_eq!(received.files[1], ("a %22quoted%22 näme.py".into(), SCRIPT.into()));
    assert_eq!(received.manifest, r#"{"entrypoint":"main.py","args":["a b"]}"#);
    assert_eq!(received.upload, (Some(Priority::High), Some("k-1".into())));
}

#[tokio::test]
async fn curl_with_the_manifest_as_a_file_and_first() {
    let received = receive(include_bytes!("../testdata/curl_manifest_file.body")).await;
    assert_eq!(received.files, [("main.py".into(), SCRIPT.into())]);
    assert_eq!(received.upload, (None, None));
}

#[tokio::test]
async fn python_requests() {
    let received = receive(include_bytes!("../testdata/requests.body")).await;
    assert!(is_gzip(&received.files[0]));
    assert_eq!(received.manifest, r#"{"entrypoint":"main.py","timeout":300,"memory_mb":512}"#);
    let received = receive(include_bytes!("../testdata/requests_several.body")).await;
    assert_eq!(received.files, [("main.py".into(), SCRIPT.into()), ("größe %221%22.txt".into(), vec![])]);
}

#[tokio::test]
async fn python_httpx() {
    let received = receive(include_bytes!("../testdata/httpx.body")).await;
    assert!(is_gzip(&received.files[0]));
    assert_eq!(received.files[1], ("größe %221%22.txt".into(), b"\r\n--x".into()));
}

#[tokio::test]
async fn chrome_with_the_manifest_as_a_blob() {
    let received = receive(include_bytes!("../testdata/chrome.body")).await;
    assert!(is_gzip(&received.files[0]));
    assert_eq!(received.files[1], ("größe %221%22.txt".into(), vec![]));
}

#[tokio::test]
async fn firefox() {
    let received = receive(include_bytes!("../testdata/firefox.body")).await;
    assert_eq!(received.files, [("main.py".into(), SCRIPT.into())]);
}

#[tokio::test]
async fn the_front_ends_own_format_goes_through_untouched() {
    let received = receive(include_bytes!("../testdata/front_end.body")).await;
    let content = b"----Tar\nPath: main.py\nSize: 12\n\nprint(\"hi\")\n";
    assert_eq!(received.files, [("job.tar.gz".into(), content.into())]);
}
