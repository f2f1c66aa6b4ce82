//! Archives that are looked into while they come in.

use std::time::Duration;

use flate2::Compression;
use serde_json::json;

use crate::bodies::{form, tar_gz};
use crate::harness::{Pool, SOON, eventually, nobody};
use crate::standin::{Quirks, Standin};
use crate::wire::{Call, Ended, sha256};

const MANIFEST: &str = r#"{"entrypoint":"main.py"}"#;

fn upload(name: &str, archive: &[u8]) -> Call {
    form(&[(name, archive)], Some(MANIFEST))
}

fn escaping() -> Vec<u8> {
    tar_gz(&[("main.py", b"print(1)"), ("../../evil.sh", b"rm")], Compression::fast())
}

#[tokio::test]
async fn entry_that_leaves_the_jobs_directory_is_a_400_that_names_it() {
    let pool = Pool::start(&[nobody()], "").await;
    let before = pool.payloads();
    for name in ["job.tar.gz", "job.tgz", "JOB.TGZ"] {
        let answer = pool.call(upload(name, &escaping())).await.expect(400);
        assert_eq!((&answer["code"], &answer["field"]), (&json!("bad_request"), &json!("files")), "{name}");
        assert!(answer["error"].as_str().unwrap().contains("../../evil.sh"), "{answer}");
    }
    eventually("nothing is left", SOON, async || (pool.payloads() == before).then_some(())).await;
    assert_eq!(pool.get("/pool").await.expect(200)["total_jobs"], 0);
}

#[tokio::test]
async fn what_is_no_archive_or_not_to_be_looked_into_passes_untouched() {
    let standin = Standin::start(Quirks::brisk()).await;
    let looking = Pool::start(&[standin.entry(1)], "").await;
    let text = b"----Tar\nPath: main.py\nSize: 8\n\nprint(1)\n".to_vec();
    let trusting = Pool::start(&[standin.entry(1)], "uploads: {inspect: none}").await;
    let cases =
        [(&looking, "a.tar.gz", text), (&looking, "a.bin", escaping()), (&trusting, "a.tgz", escaping())];
    for (at, (pool, name, payload)) in cases.into_iter().enumerate() {
        pool.call(upload(name, &payload)).await.expect(200);
        eventually("the worker has it", SOON, async || (standin.submissions().len() > at).then_some(()))
            .await;
        assert_eq!(standin.submissions()[at].files[0].sha256, sha256(&payload), "{name}");
    }
}

#[tokio::test]
async fn archive_past_its_limits_is_refused_while_it_comes() {
    let limits = "uploads: {max_entries: 3, max_unpacked: 1MiB}";
    let pool = Pool::start(&[nobody()], limits).await;
    let (small, large) = (vec![b'x'; 100], vec![b'x'; 2 << 20]);
    let many: Vec<(&str, &[u8])> = ["a", "b", "c", "d"].map(|name| (name, small.as_slice())).to_vec();
    for (files, words) in
        [(many, ["\"d\"", "3 entries"]), (vec![("big.bin", large.as_slice())], ["big.bin", "1048576"])]
    {
        let archive = tar_gz(&files, Compression::fast());
        let answer = pool.call(upload("job.tgz", &archive)).await.expect(400);
        assert!(words.iter().all(|word| answer["error"].as_str().unwrap().contains(word)), "{answer}");
    }
}

#[tokio::test]
async fn bombs_hold_up_nobody_and_cost_no_memory() {
    let pool = Pool::start(&[nobody()], "").await;
    let zeros = vec![0; 256 << 20];
    let bomb = upload("job.tar.gz", &tar_gz(&[("zeros", &zeros)], Compression::best()));
    drop(zeros);
    let bombs = async {
        let answers = tokio::join!(pool.call(bomb.clone()), pool.call(bomb.clone()), pool.call(bomb.clone()));
        for answer in [answers.0, answers.1, answers.2] {
            let answer = answer.expect(400);
            assert!(answer["error"].as_str().unwrap().contains("zeros"), "{answer}");
        }
    };
    let mut longest = Duration::ZERO;
    let watch = async {
        for _ in 0..20 {
            let began = std::time::Instant::now();
            let answer = pool.get("/health").await;
            assert_eq!((answer.status(), answer.ended), (200, Ended::Whole));
            longest = longest.max(began.elapsed());
        }
    };
    tokio::join!(bombs, watch);
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    assert!(pool.rss_peak() < 96 << 20, "{} MiB", pool.rss_peak() >> 20);
}
