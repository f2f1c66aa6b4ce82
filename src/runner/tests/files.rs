//! A job's files as clients see them, whatever the job has made of them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{TestWorker, sandbox};
use crate::runner::sandbox::Sandbox;

/// Larger than all that the kernel buffers between a worker and a client that does not read.
const LARGE_BYTES: usize = 64 << 20;

#[tokio::test]
async fn links_that_a_job_leaves_are_not_followed() {
    let worker = TestWorker::start(1).await;
    let id = worker
        .run("ln -s /etc/passwd out; ln -s / root; mkfifo pipe; echo x > plain; ln -s plain in", "{}")
        .await;
    worker.end(&id).await;
    for (path, status) in [("out", 403), ("root/etc/passwd", 403), ("in", 403), ("pipe", 404), ("plain", 200)]
    {
        assert_eq!(worker.get(&format!("/download/{id}/{path}")).await.status, status, "{path}");
    }
    let listing = worker.get(&format!("/outputs/{id}")).await.json();
    assert_eq!((&listing["total_files"], &listing["files"][0]["name"]), (&1.into(), &"plain".into()));
}

#[tokio::test]
async fn outputs_are_regular_files_of_the_job_and_nothing_else() {
    let worker = TestWorker::start(1).await;
    let script = "ln -s /etc/passwd link; mkdir d; ln -s /usr d/usr; mkfifo d/pipe; mknod d/zero c 1 5
        ln /usr/bin/env hard; ln /proc/self/status proc; ln /etc/ld.so.cache cache
        ln d/none none; echo a > a; ln a d/a; exit 0";
    let id = worker.run(script, "{}").await;
    assert_eq!(worker.end(&id).await["status"], "completed");
    let listing = worker.get(&format!("/outputs/{id}")).await.json();
    let names: Vec<&str> =
        listing["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    match sandbox() {
        Sandbox::Bubblewrap(_) => assert_eq!(names, ["a", "d/a"]),
        // Without walls, what its user can link to is the job's to give away.
        Sandbox::None => assert!(names.starts_with(&["a"]) && !names.contains(&"d/zero"), "{names:?}"),
    }
    for path in ["link", "d/usr/bin/env", "d/pipe", "d/zero", "d"] {
        assert!(worker.get(&format!("/download/{id}/{path}")).await.status >= 400, "{path}");
    }
    assert_eq!(worker.get(&format!("/download/{id}")).await.status, 200);
}

/// Starts to download a large file, has the job change it, and reads on: how many bytes came, of how many announced.
async fn change_while_downloaded(change: &str) -> (usize, usize) {
    let worker = TestWorker::with(1, sandbox(), Duration::from_secs(60)).await;
    let script = format!(
        "head -c {LARGE_BYTES} /dev/zero > file; echo ready
         while [ ! -e go ]; do sleep 0.02; done; {change}; echo changed; sleep 60"
    );
    let id = worker.run(&script, "{}").await;
    let told = async |word: &str| {
        while !worker.get(&format!("/logs/{id}")).await.text().contains(word) {}
    };
    told("ready").await;
    let mut connection = TcpStream::connect(worker.address).await.unwrap();
    let request = format!("GET /download/{id}/file HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    connection.read_exact(&mut answer).await.unwrap();
    std::fs::write(worker.work_of(&id).join("go"), "").unwrap();
    told("changed").await;

    // A break may show as a reset.
    let _ = connection.read_to_end(&mut answer).await;
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    (answer.len() - head, length.parse().unwrap())
}

#[tokio::test]
async fn file_that_shrinks_while_it_is_downloaded_breaks_off() {
    let (sent, announced) = change_while_downloaded(": > file").await;
    assert_eq!(announced, LARGE_BYTES);
    assert!(sent < announced, "{sent}");
}

#[tokio::test]
async fn file_that_grows_while_it_is_downloaded_is_cut_to_what_was_announced() {
    assert_eq!(change_while_downloaded("echo more >> file").await, (LARGE_BYTES, LARGE_BYTES));
}
