//! A measurement: `cargo test --lib -- --ignored --nocapture spool::tests::speed`.

use std::time::Instant;

use super::super::digest::ContentDigest;
use super::super::parts::Parts;
use super::*;

const CHUNK: usize = 64 << 10;
const BODY_BYTES: usize = 1 << 30;

/// A body of one large file, in chunks as a connection brings them, without ever being whole.
fn large() -> impl futures_util::Stream<Item = Result<Bytes, io::Error>> + Unpin {
    let head = part("name=\"files\"; filename=\"main.py\"", b"");
    let head = Bytes::copy_from_slice(&head[..head.len() - 2]);
    let noise: Vec<u8> = (0..CHUNK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let noise = Bytes::from(noise);
    let middle = std::iter::repeat_n((), BODY_BYTES / CHUNK).map(move |()| Bytes::copy_from_slice(&noise));
    let tail = [b"\r\n", body(&[manifest("{}")]).as_slice()].concat();
    stream::iter(std::iter::once(head).chain(middle).chain([Bytes::from(tail)]).map(Ok))
}

fn report(what: &str, since: Instant) {
    let rate = BODY_BYTES as f64 / 1e6 / since.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    println!("{what}: {rate:.0} MB/s, {peak}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn one_gibibyte() {
    let start = Instant::now();
    let mut source = large();
    while futures_util::StreamExt::next(&mut source).await.is_some() {}
    report("source alone", start);

    for digests in [false, true] {
        let start = Instant::now();
        let mut digest = ContentDigest::default();
        let mut parts = Parts::new(large(), &encode::content_type(BOUNDARY), u64::MAX).unwrap();
        while parts.next().await.unwrap().is_some() {
            while let Some(bytes) = parts.chunk().await.unwrap() {
                if digests {
                    digest.update(&bytes);
                }
            }
        }
        report(if digests { "parser and digest" } else { "parser" }, start);
    }

    let (_dir, spool) = spool();
    let start = Instant::now();
    let mut writer = spool.begin();
    let noise = vec![7; CHUNK];
    for _ in 0..BODY_BYTES / CHUNK {
        writer.write(&noise).await.unwrap();
    }
    report("writer", start);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let start = Instant::now();
    drop(writer);
    println!("dropping the writer: {:?}", start.elapsed());

    let limits = UploadLimits { body_bytes_max: u64::MAX, ..LIMITS };
    let start = Instant::now();
    let upload = parse_upload(large(), &encode::content_type(BOUNDARY), &limits, &spool).await.unwrap();
    report("upload", start);
    upload.into_work(&job(1)).await.unwrap();
    report("upload, made durable", start);
}
