//! Where in the file system this process's control groups are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{NAME, write};

/// What jobs are bounded by under version 1, each with a hierarchy of its own.
const CONTROLLERS_ONE: [&str; 3] = ["memory", "pids", "cpuacct"];

/// What has to be switched on below a group of version 2. CPU time is counted everywhere.
const CONTROLLERS_TWO: [&str; 2] = ["memory", "pids"];

/// The mounted hierarchies, and this process's group in each.
#[derive(Debug)]
pub(super) struct Places {
    mounts: Vec<Mount>,
    own: String,
}

/// One mounted hierarchy.
#[derive(Debug)]
struct Mount {
    /// The group that is seen at `point`.
    root: PathBuf,
    point: PathBuf,
    kind: String,
    options: String,
}

impl Places {
    pub(super) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text("/proc/self/mountinfo"), text("/proc/self/cgroup"))
    }

    fn parse(mountinfo: &str, own: String) -> Self {
        Self { mounts: mountinfo.lines().filter_map(Mount::parse).collect(), own }
    }

    /// Groups of version 2 that can have groups for jobs below them: the worker's own, else the root.
    pub(super) fn version_two(&self) -> Vec<PathBuf> {
        let Some(mount) = self.mounts.iter().find(|mount| mount.kind == "cgroup2") else { return Vec::new() };
        let own = self.own.lines().find_map(|line| line.strip_prefix("0::"));
        let own = own.map(|group| mount.dir(Path::new(group))).map(|dir| match dir.parent() {
            // This process has stepped aside before.
            Some(parent) if dir.ends_with(aside_name()) => parent.to_owned(),
            _ => dir,
        });
        own.into_iter().chain([mount.point.clone()]).filter(|dir| prepare(dir).is_ok()).collect()
    }

    /// The worker's own groups of version 1, if all the hierarchies are there.
    pub(super) fn version_one(&self) -> Option<Vec<PathBuf>> {
        let mut dirs = Vec::new();
        for controller in CONTROLLERS_ONE {
            let has = |list: &str| list.split(',').any(|entry| entry == controller);
            let mount = self.mounts.iter().find(|mount| mount.kind == "cgroup" && has(&mount.options))?;
            let group = self.own.lines().find_map(|line| {
                let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
                has(controllers).then_some(group)
            });
            let dir = mount.dir(Path::new(group?));
            // Two of them may share a hierarchy.
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        Some(dirs)
    }
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut file_system = file_system.split(' ');
        let kind = file_system.next().filter(|kind| kind.starts_with("cgroup"))?;
        Some(Self {
            root: mount.next()?.into(),
            point: mount.next()?.into(),
            kind: kind.to_owned(),
            options: file_system.nth(1)?.to_owned(),
        })
    }

    /// Where a group is. In a container, what is mounted may begin below the group's first parts, or be another view.
    fn dir(&self, group: &Path) -> PathBuf {
        let below = group.strip_prefix(&self.root).or_else(|_| group.strip_prefix("/")).unwrap_or(group);
        let dir = self.point.join(below);
        if dir.is_dir() { dir } else { self.point.clone() }
    }
}

/// The group that the worker moves to, out of the one that jobs' groups are made in.
fn aside_name() -> String {
    format!("{NAME}{}-worker", std::process::id())
}

/// Sees to it that groups below this one can bound what jobs use.
fn prepare(dir: &Path) -> io::Result<()> {
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control"))?;
    let missing = |name: &&str| !enabled.split_whitespace().any(|entry| entry == *name);
    let missing: Vec<String> =
        CONTROLLERS_TWO.iter().filter(|name| missing(name)).map(|name| format!("+{name}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let enable = || write(&dir.join("cgroup.subtree_control"), &missing.join(" "));
    // Refused while a process is in the group itself: this one, under systemd.
    match enable() {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let aside = dir.join(aside_name());
            fs::create_dir(&aside)?;
            let moved = write(&aside.join("cgroup.procs"), "0").and_then(|()| enable());
            if moved.is_err() {
                // Others are in it as well, and are not ours to move.
                let _ = write(&dir.join("cgroup.procs"), "0");
                let _ = fs::remove_dir(&aside);
            }
            moved
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "4:memory:/a/worker\n3:cpu,cpuacct:/\n2:pids:/b\n0::/unit\n";

    fn groups(dir: &Path, names: &[&str]) {
        names.iter().for_each(|name| fs::create_dir_all(dir.join(name)).unwrap());
    }

    #[test]
    fn own_groups_are_found_in_every_hierarchy() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        groups(at, &["memory/worker", "cpuacct", "pids/b"]);
        let shown = at.display();
        let mounts = format!(
            "1 0 0:1 /a {shown}/memory rw - cgroup cgroup rw,memory\n\
             2 0 0:2 / {shown}/cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
             3 0 0:3 / {shown}/pids rw - cgroup cgroup rw,pids\n4 0 0:4 / / rw - ext4 /dev/x rw\n"
        );
        let found = Places::parse(&mounts, OWN.to_owned()).version_one().unwrap();
        assert_eq!(found, ["memory/worker", "pids/b", "cpuacct"].map(|name| at.join(name)));
        let without_pids = mounts.replace("rw,pids", "rw");
        assert_eq!(Places::parse(&without_pids, OWN.to_owned()).version_one(), None);
    }

    #[test]
    fn group_of_version_two_is_used_where_its_controllers_are_or_can_be_switched_on() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        groups(at, &["unit"]);
        fs::write(at.join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        fs::write(at.join("unit/cgroup.subtree_control"), "memory\n").unwrap();
        let mounts = format!("1 0 0:1 / {} rw - cgroup2 cgroup2 rw\n", at.display());
        let places = Places::parse(&mounts, OWN.to_owned());
        assert_eq!(places.version_two(), [at.join("unit"), at.to_owned()]);
        assert!(fs::read_to_string(at.join("unit/cgroup.subtree_control")).unwrap().starts_with("+pids"));
        let aside = format!("unit/{}", aside_name());
        groups(at, &[&aside]);
        let moved = Places::parse(&mounts, OWN.replace("unit", &aside));
        assert_eq!(moved.version_two(), [at.join("unit"), at.to_owned()]);
        fs::remove_file(at.join("unit/cgroup.subtree_control")).unwrap();
        assert_eq!(places.version_two(), [at.to_owned()]);
    }
}
