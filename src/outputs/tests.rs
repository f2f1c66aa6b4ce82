//! The directory of kept outputs.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::job::JobId;

fn run(n: u8) -> EndedRun {
    EndedRun { job: JobId::from_random([n; 12]), version: 4 }
}

fn outputs() -> (TempDir, Outputs) {
    let directory = tempfile::tempdir().unwrap();
    let outputs = Outputs::open(directory.path().join("outputs")).unwrap();
    (directory, outputs)
}

/// Keeps one file.
async fn keep(outputs: &Outputs, run: &EndedRun, text: &str) {
    let incoming = outputs.begin().unwrap();
    let mut file = incoming.file(0).await.unwrap();
    file.write_all(text.as_bytes()).await.unwrap();
    file.flush().await.unwrap();
    incoming.publish(run).await.unwrap();
}

async fn read(outputs: &Outputs, run: &EndedRun) -> io::Result<String> {
    let mut text = String::new();
    outputs.open_file(run, 0).await?.read_to_string(&mut text).await?;
    Ok(text)
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[tokio::test]
async fn what_is_published_is_read_until_it_is_removed() {
    let (_directory, outputs) = outputs();
    keep(&outputs, &run(1), "one").await;
    assert_eq!(read(&outputs, &run(1)).await.unwrap(), "one");
    assert_eq!(entries(&outputs.incoming()), 0);
    outputs.remove(&run(1)).await;
    outputs.remove(&run(1)).await;
    assert_eq!(read(&outputs, &run(1)).await.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn nobody_else_may_read_it() {
    let (_directory, outputs) = outputs();
    keep(&outputs, &run(1), "one").await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let kept = outputs.path(&run(1));
    assert_eq!((mode(&outputs.dir), mode(&kept), mode(&kept.join("0"))), (0o700, 0o700, 0o600));
}

#[tokio::test]
async fn a_collection_that_is_given_up_leaves_nothing() {
    let (_directory, outputs) = outputs();
    let incoming = outputs.begin().unwrap();
    incoming.file(0).await.unwrap();
    drop(incoming);
    assert_eq!((entries(&outputs.incoming()), entries(&outputs.dir)), (0, 1));
}

#[tokio::test]
async fn what_the_store_never_heard_of_gives_way_to_the_next_try() {
    let (_directory, outputs) = outputs();
    keep(&outputs, &run(1), "unheard of").await;
    keep(&outputs, &run(1), "the next").await;
    assert_eq!(read(&outputs, &run(1)).await.unwrap(), "the next");
}

#[tokio::test]
async fn a_sweep_leaves_what_is_kept_and_what_is_none_of_ours() {
    let (_directory, outputs) = outputs();
    let earlier = EndedRun { version: 3, ..run(1) };
    for run in [&run(1), &run(2), &earlier] {
        keep(&outputs, run, "text").await;
    }
    std::fs::create_dir(outputs.incoming().join("cut-off")).unwrap();
    std::fs::write(outputs.dir.join("notes.txt"), "").unwrap();
    std::fs::write(outputs.path(&run(3)), "a file where a directory should be").unwrap();
    let swept = outputs.sweep(|found| *found == run(1)).unwrap();
    assert_eq!(swept, Swept { incoming: 1, orphans: 2, foreign: 2 });
    assert_eq!(read(&outputs, &run(1)).await.unwrap(), "text");
    assert_eq!((entries(&outputs.incoming()), entries(&outputs.dir)), (0, 4));
}
