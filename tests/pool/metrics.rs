//! `/metrics`: what it counts is what happened, and it says nothing of anybody's jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::auth::Guarded;
use crate::bodies;
use crate::exposition::Page;
use crate::front::TlsPool;
use crate::harness::{Pool, SOON, eventually, nobody};
use crate::standin::{Fault, Quirks, Standin};
use crate::wire::{Answer, Call};

const README: &str = include_str!("../../README.md");

fn page(answer: &Answer) -> Page {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let kind = answer.head.header("Content-Type").expect("a content type");
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    Page::read(std::str::from_utf8(&answer.body).expect("UTF-8"))
}

/// What is counted once all that was asked before is: a client may have its answer a moment earlier.
async fn scrape(pool: &Pool) -> Page {
    eventually("no request is under way but the scrape", SOON, async || {
        let page = page(&pool.get("/metrics").await);
        (page.sum("trusted_pool_http_requests_in_flight") == 1.0).then_some(page)
    })
    .await
}

/// Scrapes until no job is under way.
async fn at_rest(pool: &Pool) -> Page {
    eventually("no job is left", SOON, async || {
        Some(scrape(pool).await).filter(|page| page.sum("trusted_pool_jobs") == 0.0)
    })
    .await
}

fn ended(page: &Page, outcome: &str) -> f64 {
    page.value("trusted_pool_jobs_ended_total", &[("outcome", outcome)])
}

fn answered(page: &Page, answer: &str) -> f64 {
    page.value("trusted_pool_dispatches_total", &[("answer", answer)])
}

fn jobs(page: &Page, state: &str) -> f64 {
    page.value("trusted_pool_jobs", &[("state", state)])
}

fn requests(page: &Page, route: &str, status: &str) -> f64 {
    page.value("trusted_pool_http_requests_total", &[("route", route), ("status", status)])
}

fn of_worker(page: &Page, what: &str, worker: &Value) -> f64 {
    let label = |name: &str| worker[name].as_str().expect("text").to_owned();
    let (key, endpoint) = (label("worker_id"), label("endpoint"));
    page.value(&format!("trusted_pool_worker_{what}"), &[("worker_id", &key), ("endpoint", &endpoint)])
}

#[tokio::test]
async fn a_new_pool_shows_every_counter_and_each_of_them_is_zero() {
    let pool = Pool::start(&[nobody()], "").await;
    let page = scrape(&pool).await;
    // What a pool does by itself, and what asking it is.
    let busy = ["trusted_pool_http_", "trusted_pool_store_", "trusted_pool_worker_", "process_"];
    for (name, family) in page.families() {
        assert!(!family.samples.is_empty(), "{name}");
        if family.kind != "gauge" && !busy.iter().any(|prefix| name.starts_with(prefix)) {
            assert!(family.samples.iter().all(|sample| sample.value == 0.0), "{family:?}");
        }
    }
    assert_eq!([requests(&page, "submit", "2xx"), requests(&page, "none", "4xx")], [0.0, 0.0]);
}

#[tokio::test]
async fn counters_say_exactly_what_happened_to_jobs() {
    let standin = Standin::start(Quirks::second()).await;
    let pool = Pool::start(&[standin.entry(4)], "").await;
    for _ in 0..3 {
        pool.complete(&["run_ms=20"]).await;
    }
    let failed = pool.run(&["exit=1"]).await;
    pool.failed(&failed, "job_failed").await;
    standin.fail("POST /submit", 1, Fault::error(400, "no"));
    let rejected = pool.run(&[]).await;
    pool.failed(&rejected, "rejected").await;
    let long = pool.run(&["run_ms=60000"]).await;
    pool.wait_until(&long, |status| status["pool_status"] == "running", SOON).await;
    pool.call(Call::post(&format!("/cancel/{long}"), "")).await.expect(200);
    pool.call(Call::post(&format!("/retry/{failed}"), "")).await.expect(200);
    pool.finished(&failed).await;
    let page = at_rest(&pool).await;
    assert_eq!(page.value("trusted_pool_jobs_submitted_total", &[]), 6.0);
    assert_eq!(page.value("trusted_pool_jobs_retried_total", &[]), 1.0);
    assert_eq!(page.value("trusted_pool_jobs_known", &[]), 6.0);
    let outcomes = ["completed", "job_failed", "rejected", "cancelled"].map(|outcome| ended(&page, outcome));
    assert_eq!((outcomes, page.sum("trusted_pool_jobs_ended_total")), ([3.0, 2.0, 1.0, 1.0], 7.0));
    assert_eq!((answered(&page, "accepted"), answered(&page, "refused")), (6.0, 1.0));
    assert_eq!(page.sum("trusted_pool_dispatches_total"), 7.0);
    assert_eq!(page.value("trusted_pool_job_wait_seconds_count", &[]), 6.0);
    assert_eq!(page.value("trusted_pool_job_run_seconds_count", &[]), 6.0);
    assert!(page.value("trusted_pool_job_run_seconds_sum", &[]) >= 0.06);
    assert_eq!([requests(&page, "submit", "2xx"), requests(&page, "retry", "2xx")], [6.0, 1.0]);
    assert!(page.value("trusted_pool_http_received_bytes_total", &[("route", "submit")]) > 600.0);
    assert!(page.value("trusted_pool_store_changes_total", &[]) >= 6.0 * 4.0);
}

#[tokio::test]
async fn what_a_worker_answered_is_counted_by_what_it_means() {
    let standin = Standin::start(Quirks::second()).await;
    let pool = Pool::start(&[standin.entry(1)], "").await;
    standin.fail("POST /submit", 1, Fault::error(503, "busy"));
    pool.complete(&[]).await;
    standin.fail("POST /submit", 1, Fault::CloseAfterTaking);
    pool.complete(&[]).await;
    let page = at_rest(&pool).await;
    let answers = ["throttled", "unknown", "accepted"].map(|answer| answered(&page, answer));
    assert_eq!(answers, [1.0, 1.0, 1.0]);
    assert_eq!(
        (ended(&page, "completed"), page.value("trusted_pool_job_wait_seconds_count", &[])),
        (2.0, 1.0)
    );
}

#[tokio::test]
async fn a_submit_that_is_repeated_counts_as_a_request_and_not_as_a_job() {
    let pool = Pool::start(&[nobody()], "").await;
    let call = bodies::form(&[("main.py", b"1")], Some("{}")).header("Idempotency-Key", "once");
    for _ in 0..3 {
        pool.call(call.clone()).await.expect(200);
    }
    let page = scrape(&pool).await;
    assert_eq!(page.value("trusted_pool_jobs_submitted_total", &[]), 1.0);
    assert_eq!((requests(&page, "submit", "2xx"), jobs(&page, "queued")), (3.0, 1.0));
}

#[tokio::test]
async fn counters_begin_anew_after_a_crash_and_gauges_tell_how_it_is() {
    let standin = Standin::start(Quirks::second()).await;
    let entry = standin.entry(1);
    let mut pool = Pool::start(std::slice::from_ref(&entry), "").await;
    pool.complete(&["out=a.txt:12345"]).await;
    eventually("the outputs are kept", SOON, async || {
        (scrape(&pool).await.value("trusted_pool_outputs_kept_bytes", &[]) == 5.0).then_some(())
    })
    .await;
    let first = pool.run(&["run_ms=60000"]).await;
    pool.wait_until(&first, |status| status["pool_status"] == "running", SOON).await;
    let payload = vec![b'x'; 100_000];
    pool.submit(&[("big", &payload)], &json!({"entrypoint": "big"})).await;
    pool.run(&[]).await;
    let truth = async |pool: &Pool, submitted: f64| {
        let page = eventually("one runs and two wait", SOON, async || {
            Some(scrape(pool).await)
                .filter(|page| (jobs(page, "running"), jobs(page, "queued")) == (1.0, 2.0))
        })
        .await;
        assert_eq!(page.value("trusted_pool_jobs_submitted_total", &[]), submitted);
        assert_eq!(page.value("trusted_pool_jobs_known", &[]), 4.0);
        assert_eq!(page.value("trusted_pool_outputs_kept_bytes", &[]), 5.0);
        let spooled = page.value("trusted_pool_spool_bytes", &[]);
        assert!((100_000.0..101_000.0).contains(&spooled), "{spooled}");
        assert!(page.value("trusted_pool_disk_free_bytes", &[]) > 1e6);
        assert_eq!(
            [of_worker(&page, "active_jobs", &entry), of_worker(&page, "jobs_limit", &entry)],
            [1.0, 1.0]
        );
        page.value("trusted_pool_oldest_queued_job_age_seconds", &[])
    };
    let age = truth(&pool, 4.0).await;
    pool.kill9().await;
    pool.restart().await;
    pool.healthy(1).await;
    assert!(age > 0.0 && truth(&pool, 0.0).await > age);
}

#[tokio::test]
async fn workers_are_shown_as_they_are() {
    let (standin, dead) = (Standin::start(Quirks::second()).await, nobody());
    let (good, entries) = (standin.entry(3), [standin.entry(3), dead.clone()]);
    let pool = Pool::start(&entries, "").await;
    pool.worker_until(dead["worker_id"].as_str().expect("an id"), |it| it["last_error"].is_string()).await;
    pool.healthy(1).await;
    let url_safe = standin.worker_id().replace('+', "-").replace('/', "_");
    pool.call(Call::post(&format!("/workers/{url_safe}/drain"), "")).await.expect(200);
    let page = scrape(&pool).await;
    let states = ["healthy", "down", "unchecked", "distrusted"];
    let states = states.map(|state| page.value("trusted_pool_workers", &[("state", state)]));
    assert_eq!(states, [1.0, 1.0, 0.0, 0.0]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs_f64();
    for (worker, up, draining) in [(&good, 1.0, 1.0), (&dead, 0.0, 0.0)] {
        assert_eq!((of_worker(&page, "up", worker), of_worker(&page, "draining", worker)), (up, draining));
        let checked = of_worker(&page, "last_health_check_timestamp_seconds", worker);
        assert!((now - checked).abs() < 60.0, "{checked}");
        let label = |name: &str| worker[name].as_str().expect("text").to_owned();
        let (key, endpoint) = (label("worker_id"), label("endpoint"));
        let of = |result| [("worker_id", key.as_str()), ("endpoint", endpoint.as_str()), ("result", result)];
        let checks = |result| page.value("trusted_pool_worker_health_checks_total", &of(result)) > 0.0;
        assert_eq!((checks("passed"), checks("failed")), (up == 1.0, up == 0.0));
    }
}

#[tokio::test]
async fn a_reader_may_look_and_learns_of_no_other_client() {
    let guarded = Guarded::start(&[nobody()], "").await;
    let owner = guarded.token("secret-owner", "submit").await;
    let job = guarded.submit(&owner).await;
    let reader = guarded.token("watcher", "read").await;
    guarded.pool.get("/metrics").await.expect(401);
    guarded.get("nonsense", "/metrics").await.expect(401);
    let refused = async || {
        let answer = guarded.get(&reader, "/metrics").await;
        (requests(&page(&answer), "metrics", "4xx") == 2.0).then_some(answer)
    };
    let answer = eventually("both refusals are counted", SOON, refused).await;
    let page = page(&answer);
    for secret in ["secret-owner", "watcher", job.as_str()] {
        assert!(!answer.text().contains(secret), "{secret}");
    }
    let denied = |reason| page.value("trusted_pool_http_denied_total", &[("reason", reason)]);
    // Tokens that are made are tried until they are known.
    assert!(denied("unauthorized") >= 2.0);
    assert_eq!((denied("forbidden"), denied("rate_limited")), (0.0, 0.0));
}

#[tokio::test]
async fn a_scrape_is_a_request_like_any_other() {
    let pool = Pool::start(&[nobody()], "").await;
    let head = pool.call(Call::new("HEAD", "/metrics")).await;
    assert_eq!((head.status(), head.body.len()), (200, 0));
    assert_eq!(pool.call(Call::post("/metrics", "")).await.status(), 405);
    let before = scrape(&pool).await;
    let after = scrape(&pool).await;
    assert!(requests(&after, "metrics", "2xx") > requests(&before, "metrics", "2xx"));
    assert_eq!(after.value("trusted_pool_http_requests_in_flight", &[("route", "metrics")]), 1.0);
    assert!(after.value("trusted_pool_http_sent_bytes_total", &[("route", "metrics")]) > 10_000.0);
    assert_eq!(requests(&after, "none", "4xx"), 1.0);
    assert!(after.value("trusted_pool_connections", &[]) >= 1.0);
}

#[tokio::test]
async fn thousands_of_workers_come_in_pieces_and_each_is_there_once() {
    let entry = |number: u32| {
        let host = SocketAddr::from(([127, 1, (number / 250) as u8, (number % 250) as u8], 9));
        let mut entry = nobody();
        entry["endpoint"] = format!("http://{host}").into();
        entry
    };
    let entries: Vec<Value> = (0..2000).map(entry).collect();
    let pool = Pool::start(&entries, "health: {interval: 1h, timeout: 1s}").await;
    let page = scrape(&pool).await;
    let up = page.families().find(|(name, _)| *name == "trusted_pool_worker_up").expect("the family").1;
    assert_eq!(up.samples.len(), 2000);
    assert_eq!(page.sum("trusted_pool_workers"), 2000.0);
}

#[tokio::test]
async fn scrapes_side_by_side_are_sound_while_jobs_run() {
    let standin = Standin::start(Quirks::second()).await;
    let pool = Pool::start(&[standin.entry(8)], "").await;
    let address = pool.address();
    let watch = async || {
        let mut last = 0.0;
        for _ in 0..20 {
            let page = page(&Call::get("/metrics").send(address).await.expect("an answer"));
            let done = ended(&page, "completed");
            assert!(done >= last && page.sum("trusted_pool_jobs") <= 40.0);
            last = done;
        }
    };
    let work = async {
        for _ in 0..40 {
            pool.run(&["run_ms=5"]).await;
        }
    };
    tokio::join!(work, watch(), watch(), watch(), watch());
    let page = at_rest(&pool).await;
    assert_eq!((ended(&page, "completed"), requests(&page, "submit", "2xx")), (40.0, 40.0));
}

/// The README's rows: each name with its type and labels.
fn promised() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = README.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter(|row| row.starts_with("trusted_pool_") || row.starts_with("process_"));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    // Alerts have fewer cells, and stand in a table of their own.
    let cells = cells.filter(|cells| cells.len() == 5);
    cells
        .map(|cells| {
            let labels = cells[2].split([',', ' ', '`']).filter(|label| !label.is_empty());
            let labels = labels.map(str::to_owned).collect();
            (cells[0].trim_end_matches('`').to_owned(), (cells[1].to_owned(), labels))
        })
        .collect()
}

#[tokio::test]
async fn the_readme_names_what_there_is_and_nothing_else() {
    let pool = TlsPool::start(&[nobody()], "").await;
    let answer = pool.client().call(pool.address, &Call::get("/metrics")).await.expect("an answer");
    let page = page(&answer);
    let shown: BTreeMap<String, (String, BTreeSet<String>)> = page
        .families()
        .map(|(name, family)| {
            let labels = family.samples.iter().flat_map(|sample| sample.labels.keys().cloned());
            (name.to_owned(), (family.kind.clone(), labels.filter(|label| label != "le").collect()))
        })
        .collect();
    assert_eq!(promised(), shown);
    let not_after = page.value("trusted_pool_tls_certificate_not_after_timestamp_seconds", &[]);
    assert!(not_after > 1.7e9, "{not_after}");
}
