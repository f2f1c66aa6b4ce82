//! The directory, and what is left in it.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_directories_are_for_the_owner_alone() {
    let (dir, spool) = spool();
    for path in [dir.path().join("spool"), spool.incoming()] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
    Spool::open(dir.path().join("spool"), u64::MAX).unwrap();
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    let (_dir, spool) = spool();
    for length in [10, 1 << 20, 10 << 20] {
        block_on(async {
            let mut writer = spool.begin();
            writer.write(&vec![7; length]).await.unwrap();
        });
        assert_eq!(entries(&spool), 0, "{length}");
    }
}

#[test]
fn a_payload_is_opened_and_removed_by_its_job() {
    let (_dir, spool) = spool();
    block_on(async {
        let mut writer = spool.begin();
        writer.write(&[7; 100_000]).await.unwrap();
        assert_eq!(writer.finish(&job(1)).await.unwrap(), Payload::Spooled { bytes: 100_000 });
        let mut read = Vec::new();
        let mut file = spool.open_payload(&job(1)).await.unwrap();
        tokio::io::AsyncReadExt::read_to_end(&mut file, &mut read).await.unwrap();
        assert_eq!(read, [7; 100_000]);
        spool.remove(&job(1)).await.unwrap();
        spool.remove(&job(1)).await.unwrap();
        assert!(spool.open_payload(&job(1)).await.is_err());
    });
    assert_eq!(entries(&spool), 0);
}

#[test]
fn a_failed_finish_leaves_nothing_and_says_why() {
    let (_dir, spool) = spool();
    // A directory is in the way of the job's name.
    std::fs::create_dir(spool.path(&job(1))).unwrap();
    block_on(async {
        let mut writer = spool.begin();
        writer.write(&[7; 100_000]).await.unwrap();
        let error = writer.finish(&job(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    });
    assert_eq!(std::fs::read_dir(spool.incoming()).unwrap().count(), 0);
}

#[test]
fn a_sweep_removes_what_a_crash_left_and_nothing_else() {
    let (_dir, spool) = spool();
    let write = |path: PathBuf| std::fs::write(path, "x").unwrap();
    write(spool.incoming().join(".tmpAbc"));
    write(spool.path(&job(1)));
    write(spool.path(&job(2)));
    write(spool.dir.join("README"));
    std::fs::create_dir(spool.path(&job(3))).unwrap();
    let swept = spool.sweep(|id| *id == job(1)).unwrap();
    assert_eq!(swept, Swept { incoming: 1, orphans: 1, foreign: 2 });
    assert!(spool.path(&job(1)).exists() && !spool.path(&job(2)).exists());
    assert!(spool.dir.join("README").exists());
}

#[test]
fn after_a_failed_write_there_is_no_payload() {
    let (_dir, spool) = spool();
    std::fs::remove_dir(spool.incoming()).unwrap();
    block_on(async {
        let mut writer = spool.begin();
        let failed = writer.write(&vec![7; 10 << 20]).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::NotFound);
        writer.write(&vec![7; 10 << 20]).await.unwrap_err();
        writer.finish(&job(1)).await.unwrap_err();
    });
    assert!(!spool.path(&job(1)).exists());
}
