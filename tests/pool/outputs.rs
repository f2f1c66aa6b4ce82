//! Files that a job left, streamed from the worker that has them.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::{Pool, SOON, eventually, nobody};
use crate::standin::{Fault, Quirks, Standin, pattern, pattern_sha256};
use crate::wire::{Call, Ended, Wire, hex};

const MIB: u64 = 1024 * 1024;

/// A pool with one worker, and a finished job with these outputs.
async fn finished_job(quirks: Quirks, outputs: &[&str]) -> (Standin, Pool, String) {
    let standin = Standin::start(quirks).await;
    let pool = Pool::start(&[standin.entry(1)], "outputs: {keep: 0s}").await;
    let job = pool.complete(outputs).await;
    (standin, pool, job)
}

#[tokio::test]
async fn listing_is_in_the_pools_terms_and_its_links_work() {
    let (_standin, pool, job) = finished_job(Quirks::brisk(), &["out=r/o.txt:data", "out=a b.txt:two"]).await;
    let listing = pool.get(&format!("/outputs/{job}")).await.expect(200);
    assert_eq!((&listing["job_id"], &listing["total_files"]), (&job.as_str().into(), &2.into()));
    for (file, body) in listing["files"].as_array().expect("files").iter().zip(["data", "two"]) {
        let url = file["download_url"].as_str().expect("a link");
        let own = [format!("/download/{job}/"), format!("/outputs/{job}/")];
        assert!(own.iter().any(|prefix| url.starts_with(prefix)) && !url.contains(' '), "{url}");
        assert_eq!(pool.get(url).await.text(), body);
        assert_eq!(file["size"], body.len());
    }
}

#[tokio::test]
async fn file_is_served_by_both_paths_as_somebody_elses_untrusted_file() {
    let (_standin, pool, job) = finished_job(Quirks::brisk(), &["out=r/page.html:<b>hi</b>"]).await;
    for path in ["outputs", "download"] {
        let answer = pool.get(&format!("/{path}/{job}/r/page.html")).await;
        assert_eq!((answer.status(), answer.text().as_str(), answer.ended), (200, "<b>hi</b>", Ended::Whole));
        let header = |name| answer.head.header(name).unwrap_or_default().to_owned();
        assert_eq!((header("content-length").as_str(), header("content-type").as_str()), ("9", "text/html"));
        assert_eq!(
            (header("x-content-type-options").as_str(), header("set-cookie").as_str()),
            ("nosniff", "")
        );
        assert!(header("content-disposition").starts_with("attachment"), "{answer:?}");
        assert!(header("content-security-policy").contains("sandbox"), "{answer:?}");
        assert_eq!(header("access-control-allow-origin"), "*");
    }
}

#[tokio::test]
async fn head_range_and_conditions_pass_through_to_a_worker_that_knows_them() {
    let (_standin, pool, job) = finished_job(Quirks::tame(), &["big=b.bin:200000"]).await;
    for path in ["outputs", "download"] {
        let target = format!("/{path}/{job}/b.bin");
        let head = pool.call(Call::new("HEAD", &target)).await;
        assert_eq!((head.status(), head.head.header("content-length")), (200, Some("200000")));
        let part = pool.call(Call::get(&target).header("Range", "bytes=70000-70009")).await;
        assert_eq!((part.status(), &part.body), (206, &pattern(70_000..70_010)));
        assert_eq!(part.head.header("content-range"), Some("bytes 70000-70009/200000"));
        let etag = head.head.header("etag").expect("a tag").to_owned();
        let same = pool.call(Call::get(&target).header("If-None-Match", &etag)).await;
        assert_eq!((same.status(), same.body.len()), (304, 0));
    }
}

#[tokio::test]
async fn range_from_the_deployed_worker_is_the_whole_file_or_the_right_part() {
    let (_standin, pool, job) = finished_job(Quirks::brisk(), &["big=b.bin:1000"]).await;
    let call = Call::get(&format!("/outputs/{job}/b.bin")).header("Range", "bytes=10-19");
    let answer = pool.call(call).await;
    let wanted = if answer.status() == 206 { pattern(10..20) } else { pattern(0..1000) };
    assert!(matches!(answer.status(), 200 | 206));
    assert_eq!(answer.body, wanted);
}

#[tokio::test]
async fn empty_file_is_a_200_and_a_missing_one_a_404_whatever_the_workers_code() {
    for quirks in [Quirks::brisk(), Quirks::tame()] {
        let (_standin, pool, job) = finished_job(quirks, &["out=empty.txt:"]).await;
        let empty = pool.get(&format!("/outputs/{job}/empty.txt")).await;
        assert_eq!((empty.status(), empty.body.len(), empty.ended), (200, 0, Ended::Whole));
        for target in [format!("/outputs/{job}/none.txt"), format!("/download/{job}/r/none.txt")] {
            let problem = pool.get(&target).await.expect(404);
            assert!(problem["code"].is_string() && problem["error"].is_string(), "{problem}");
            assert!(!problem.to_string().contains("filesystem error"), "{problem}");
        }
    }
}

#[tokio::test]
async fn files_with_awkward_names_are_found_by_their_encoded_names() {
    let names = [
        ("a b.txt", "a%20b.txt"),
        ("50%.txt", "50%25.txt"),
        ("a%20b.txt", "a%2520b.txt"),
        ("what?.txt", "what%3F.txt"),
        ("x#y.txt", "x%23y.txt"),
        ("ü/ñ.txt", "%C3%BC/%C3%B1.txt"),
        ("plus+and&.txt", "plus+and&.txt"),
    ];
    let args: Vec<String> = names.iter().map(|(name, encoded)| format!("out={name}:{encoded}")).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (_standin, pool, job) = finished_job(Quirks::brisk(), &args).await;
    for (name, encoded) in names {
        for path in ["outputs", "download"] {
            let answer = pool.get(&format!("/{path}/{job}/{encoded}")).await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, encoded), "{name}");
        }
    }
}

#[tokio::test]
async fn links_of_the_listing_find_files_with_awkward_names() {
    let names = ["out=a b.txt:1", "out=50%.txt:1", "out=what?.txt:1", "out=x#y.txt:1", "out=ü.txt:1"];
    let (_standin, pool, job) = finished_job(Quirks::brisk(), &names).await;
    let listing = pool.get(&format!("/outputs/{job}")).await.expect(200);
    let files = listing["files"].as_array().expect("files");
    assert_eq!(files.len(), names.len());
    for file in files {
        assert_eq!(pool.get(file["download_url"].as_str().expect("a link")).await.text(), "1", "{file}");
    }
}

#[tokio::test]
async fn path_that_leaves_the_job_is_refused_and_no_worker_sees_it() {
    let (standin, pool, job) = finished_job(Quirks::brisk(), &["out=o.txt:1"]).await;
    for path in
        ["../x", "%2e%2e/x", "a/%2E%2E/%2e%2e/b", "..%2fx", "a/../../b", ".%2e/x", "..", "%00", "a%0d%0ab"]
    {
        for endpoint in ["outputs", "download"] {
            let answer = pool.get(&format!("/{endpoint}/{job}/{path}")).await;
            assert!((400..405).contains(&answer.status()), "{path}: {}", answer.status());
            assert!(answer.json()["code"].is_string(), "{path}");
        }
    }
    let leaks = |target: &str| target.contains("..") || target.to_ascii_lowercase().contains("%2e");
    assert!(standin.seen("GET /").iter().all(|seen| !leaks(&seen.target)));
}

#[tokio::test]
async fn file_that_the_worker_cuts_short_never_looks_whole() {
    let (standin, pool, job) = finished_job(Quirks::brisk(), &["big=b.bin:1000000"]).await;
    for cut in [0, 1, 500_000, 999_999] {
        for path in ["outputs", "download"] {
            standin.fail("GET /download/", 1, Fault::CutBody(cut));
            // A pool that asked again before it answered has the whole file to show.
            if let Ok(answer) = Call::get(&format!("/{path}/{job}/b.bin")).send(pool.address()).await {
                let whole = answer.status() == 200 && answer.ended == Ended::Whole;
                assert!(
                    !whole || answer.body == pattern(0..1_000_000),
                    "cut after {cut}: {}",
                    answer.body.len()
                );
            }
            standin.heal();
        }
    }
}

#[tokio::test]
async fn file_of_a_worker_that_is_gone_is_a_502_worker_unreachable() {
    let (standin, pool, job) = finished_job(Quirks::brisk(), &["out=o.txt:1"]).await;
    standin.stop().await;
    for target in [format!("/outputs/{job}/o.txt"), format!("/download/{job}/o.txt")] {
        assert_eq!(pool.get(&target).await.expect(502)["code"], "worker_unreachable");
    }
}

#[tokio::test]
async fn outputs_of_an_unknown_job_are_a_404() {
    let pool = Pool::start(&[nobody()], "").await;
    for target in
        ["/outputs/pool-0123456789abcdef", "/outputs/pool-0123456789abcdef/a", "/download/x", "/download/x/y"]
    {
        assert!(pool.get(target).await.expect(404)["code"].is_string(), "{target}");
    }
}

#[tokio::test]
async fn archive_holds_every_file_and_the_worker_keeps_its_job() {
    let outputs = ["out=r/o.txt:data", "out=empty:", "out=a b?.txt:two", "big=b.bin:3000000"];
    let (standin, pool, job) = finished_job(Quirks::brisk(), &outputs).await;
    let answer = pool.get(&format!("/download/{job}")).await;
    assert_eq!((answer.status(), answer.ended), (200, Ended::Whole));
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(answer.body.as_slice()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its content");
        if entry.header().entry_type().is_file() {
            files.insert(entry.path().expect("a path").to_string_lossy().into_owned(), bytes);
        }
    }
    let wanted = [
        ("r/o.txt", b"data".to_vec()),
        ("empty", vec![]),
        ("a b?.txt", b"two".to_vec()),
        ("b.bin", pattern(0..3_000_000)),
    ];
    assert_eq!(files, BTreeMap::from(wanted.map(|(name, bytes)| (name.to_owned(), bytes))));
    assert_eq!(standin.known_jobs(), 1);
    assert!(standin.seen("GET /download/").iter().all(|seen| seen.target.matches('/').count() > 2));
}

#[tokio::test]
async fn archive_that_lacks_a_file_never_looks_whole() {
    let (standin, pool, job) = finished_job(Quirks::brisk(), &["out=a.txt:1", "big=b.bin:1000000"]).await;
    standin.fail(&format!("GET /download/{}", remote(&standin, "b.bin")), 9, Fault::CutBody(1000));
    let Ok(answer) = Call::get(&format!("/download/{job}")).send(pool.address()).await else { return };
    assert!(answer.status() >= 500 || answer.ended == Ended::CutShort, "{}", answer.status());
}

/// The path below `/download/` of a file of the worker's only job.
fn remote(standin: &Standin, name: &str) -> String {
    let seen = standin.seen("GET /status/");
    let id = seen.first().expect("a status call").target.trim_start_matches("/status/").to_owned();
    format!("{id}/{name}")
}

#[tokio::test]
async fn download_does_not_wait_for_the_job_that_its_worker_runs() {
    let (standin, pool, job) = finished_job(Quirks::brisk(), &["out=o.txt:1"]).await;
    pool.run(&["run_ms=5000"]).await;
    eventually("the second runs", SOON, async || (standin.ran().len() == 2).then_some(())).await;
    let started = std::time::Instant::now();
    assert_eq!(pool.get(&format!("/outputs/{job}/o.txt")).await.text(), "1");
    assert!(started.elapsed().as_millis() < 1500, "{:?}", started.elapsed());
}

#[tokio::test]
async fn output_of_a_gibibyte_costs_less_than_64_mib_of_memory() {
    let size = 1024 * MIB;
    let (_standin, pool, job) = finished_job(Quirks::brisk(), &[&format!("big=b.bin:{size}")]).await;
    let mut wire = Wire::connect(pool.address()).await.unwrap();
    wire.write(&Call::get(&format!("/outputs/{job}/b.bin")).to_bytes()).await.unwrap();
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let read = wire.read_answer("GET", |piece| {
        hash.update(piece);
        bytes += piece.len() as u64;
    });
    let (head, ended) = read.await.unwrap();
    assert_eq!((head.status, ended, bytes), (200, Ended::Whole, size));
    assert_eq!(hex(&hash.finalize()), pattern_sha256(size));
    assert!(pool.rss_peak() < 64 * MIB, "{} MiB", pool.rss_peak() / MIB);
}

#[tokio::test]
async fn reader_that_stops_reading_costs_no_memory() {
    let size = 256 * MIB;
    let (_standin, pool, job) = finished_job(Quirks::brisk(), &[&format!("big=b.bin:{size}")]).await;
    let mut wires = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::connect(pool.address()).await.unwrap();
        wire.write(&Call::get(&format!("/outputs/{job}/b.bin")).to_bytes()).await.unwrap();
        assert_eq!(wire.read_head().await.unwrap().status, 200);
        wires.push(wire);
    }
    let pool_view: Value = pool.get("/pool").await.expect(200);
    assert_eq!(pool_view["total_workers"], 1);
    assert!(pool.rss_peak() < 64 * MIB, "{} MiB", pool.rss_peak() / MIB);
}
