//! A job's log while it is written.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{TestWorker, exchange};
use crate::api::live_log::{EventReader, LogEvent, LogStream, Position};

/// A client that follows a job's log.
struct Follower {
    connection: TcpStream,
    reader: EventReader,
}

impl Follower {
    async fn start(worker: &TestWorker, id: &str, from: &str) -> Self {
        let mut connection = TcpStream::connect(worker.address).await.unwrap();
        // Of version 1.0, so that the events come as they are and not in chunks.
        let request = format!("GET /logs/{id}?follow=1 HTTP/1.0\r\n{from}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.contains(" 200 ok") && head.contains("content-type: text/event-stream"), "{head}");
        Self { connection, reader: EventReader::default() }
    }

    async fn next(&mut self) -> LogEvent {
        loop {
            if let Some(event) = self.reader.next_event().unwrap() {
                return event;
            }
            let mut bytes = Vec::new();
            assert!(self.connection.read_buf(&mut bytes).await.unwrap() > 0, "it ends with an end");
            self.reader.take_in(&bytes).unwrap();
        }
    }

    /// The log and the last event.
    async fn rest(mut self) -> (String, LogEvent) {
        let mut log = String::new();
        loop {
            match self.next().await {
                LogEvent::Text { text, .. } => log += &text,
                LogEvent::Status(_) => {}
                end @ LogEvent::End { .. } => return (log, end),
            }
        }
    }
}

fn text(stream: LogStream, text: &str, stdout: u64, stderr: u64) -> LogEvent {
    LogEvent::Text { stream, text: text.to_owned(), position: Position { stdout, stderr } }
}

#[tokio::test]
async fn log_is_told_while_it_is_written_and_from_where_a_client_left_it() {
    let worker = TestWorker::start(1).await;
    let script = "echo é; while [ ! -e go ]; do sleep 0.02; done; echo two >&2; echo three";
    let id = worker.run(script, "{}").await;
    let mut follower = Follower::start(&worker, &id, "").await;
    let mut first = follower.next().await;
    while let LogEvent::Status(_) = first {
        first = follower.next().await;
    }
    assert_eq!(first, text(LogStream::Stdout, "é\n", 3, 0));
    std::fs::write(worker.work_of(&id).join("go"), "").unwrap();
    let end = LogEvent::End { status: "completed".to_owned(), position: Position { stdout: 9, stderr: 4 } };
    assert_eq!(follower.rest().await.1, end);

    let mut resumed = Follower::start(&worker, &id, "Last-Event-ID: 3-0\r\n").await;
    assert_eq!(resumed.next().await, text(LogStream::Stdout, "three\n", 9, 0));
    assert_eq!(resumed.next().await, text(LogStream::Stderr, "two\n", 9, 4));
    assert_eq!(resumed.next().await, end);
    assert_eq!(
        worker.request("GET", &format!("/logs/{id}?follow=1"), "Last-Event-ID: x\r\n").await.status,
        400
    );
    assert_eq!(worker.get(&format!("/logs/{id}?follow=yes")).await.status, 400);
}

#[tokio::test]
async fn client_that_does_not_read_slows_no_job() {
    let worker = TestWorker::start(1).await;
    let script =
        "while [ ! -e go ]; do sleep 0.02; done; head -c 9000000 /dev/zero | tr '\\0' x; echo end >&2";
    let id = worker.run(script, "{}").await;
    let _idle = Follower::start(&worker, &id, "").await;
    let url = format!("ws://{}/stream/{id}", worker.address);
    let (_idle_too, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    std::fs::write(worker.work_of(&id).join("go"), "").unwrap();
    let since = Instant::now();
    assert_eq!(worker.end(&id).await["status"], "completed");
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    let (log, _) = Follower::start(&worker, &id, "").await.rest().await;
    assert_eq!(log.len(), 9_000_004);
}

#[tokio::test]
async fn end_of_a_job_is_told_within_twenty_milliseconds() {
    let worker = TestWorker::start(1).await;
    let mut best = Duration::MAX;
    let mut connection = TcpStream::connect(worker.address).await.unwrap();
    // Of several, because this machine does other things too.
    for _ in 0..10 {
        let id = worker.run("sleep 0.1; date +%s%N", "{}").await;
        let request = format!("GET /status/{id}?wait=30 HTTP/1.1\r\nhost: w\r\n\r\n");
        assert_eq!(exchange(&mut connection, request.as_bytes()).await.json()["status"], "completed");
        let told = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let said = worker.get(&format!("/logs/{id}")).await.json()["stdout"].as_str().unwrap().trim().parse();
        best = best.min(told.saturating_sub(Duration::from_nanos(said.unwrap())));
    }
    assert!(best < Duration::from_millis(20), "{best:?}");
}
