use super::*;
use crate::runner::limits::tests::ROOMY;

/// Groups in a plain directory: what is written can be read back, and what the kernel would write is put there.
fn imitation(version: Version) -> (tempfile::TempDir, Groups) {
    let dir = tempfile::tempdir().unwrap();
    let groups = Groups { version, parents: vec![dir.path().to_owned()] };
    (dir, groups)
}

/// A group of it, with these files.
fn group(dir: &Path, version: Version, files: &[(&str, &str)]) -> Group {
    let dir = dir.join("group");
    fs::create_dir(&dir).unwrap();
    files.iter().for_each(|(name, content)| fs::write(dir.join(name), content).unwrap());
    Group { version, dirs: vec![dir] }
}

#[test]
fn group_tells_which_limit_its_job_has_broken() {
    let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
    for (version, files, broken) in [
        (Version::Two, [("memory.events", events), ("pids.events", "max 0\n")], Some(Limit::Memory)),
        (Version::Two, [("memory.events", "oom_kill 0\n"), ("pids.events", "max 9\n")], Some(Limit::Pids)),
        (
            Version::One,
            [("memory.oom_control", "under_oom 0\noom_kill 1\n"), ("pids.events", "max 0\n")],
            Some(Limit::Memory),
        ),
        (Version::One, [("memory.oom_control", "oom_kill 0\n"), ("pids.events", "max 0\n")], None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(group(dir.path(), version, &files).broken(), broken, "{version:?} {files:?}");
    }
}

#[test]
fn group_tells_the_cpu_time() {
    let dir = tempfile::tempdir().unwrap();
    let two = [("cpu.stat", "usage_usec 1500000\nuser_usec 1\n")];
    assert_eq!(group(dir.path(), Version::Two, &two).cpu(), Duration::from_millis(1500));
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(group(dir.path(), Version::One, &[("cpuacct.usage", "70000000\n")]).cpu().as_millis(), 70);
}

#[test]
fn group_that_does_not_take_its_limits_is_not_used() {
    let (dir, groups) = imitation(Version::Two);
    assert_eq!(groups.create(&ROOMY).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "and it leaves nothing");
}

#[test]
fn groups_of_dead_workers_are_swept_and_those_of_live_ones_stay() {
    let (dir, groups) = imitation(Version::One);
    // No process has this id: it is above the kernel's maximum.
    let dead = dir.path().join(format!("{NAME}99999999-0"));
    let live = dir.path().join(format!("{NAME}{}-x", std::process::id()));
    let other = dir.path().join("other");
    [&dead, &live, &other].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
    groups.sweep();
    assert!(!dead.exists() && live.exists() && other.exists());
}

/// On a machine where this process may make groups, the real ones.
#[test]
fn group_holds_its_processes_and_goes_with_its_value() {
    let Some(groups) = Groups::find(&ROOMY) else {
        eprintln!(
            "no control groups for this user: jobs are held by resource limits, which is tested from outside"
        );
        return;
    };
    let group = groups.create(&Limits { pids: 1, ..ROOMY }).unwrap();
    let doors: Vec<PathBuf> = group.doors().collect();
    let script = "for door; do echo 0 > $door; done; (sleep 600) & wait";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, "sh"]).args(&doors).stderr(std::process::Stdio::null());
    let status = shell.status().unwrap();
    assert!(!status.success() && group.broken() == Some(Limit::Pids), "{status} {group:?}");
    drop(group);
    assert!(doors.iter().all(|door| !door.exists()));
}
