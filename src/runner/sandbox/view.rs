//! What a job sees of the machine: bubblewrap's arguments.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use super::Network;
use crate::runner::environment::Environment;
use crate::runner::jobdir::JobDir;

/// Directories beside `/usr` that hold programs and libraries: links into `/usr` on a merged system.
const SYSTEM_DIRECTORIES: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// The little that programs need of `/etc`: how to find shared libraries, and what alternatives stand for.
const ETC: [&str; 4] = ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"];

/// What they need beyond that on a network: how names are resolved, and whose certificates are good.
const ETC_FOR_NETWORK: [&str; 6] = ["resolv.conf", "hosts", "nsswitch.conf", "ssl", "ca-certificates", "pki"];

/// The user and group that a job believes to be: nobody.
const NOBODY: &str = "65534";

/// A file system as one job sees it, and the namespaces around it.
pub(super) struct View {
    args: Vec<OsString>,
}

impl View {
    /// An empty machine with the system's programs and, if it is to have one, a prepared environment.
    pub(super) fn new(network: Network, environment: Option<&Environment>) -> Self {
        let mut view = Self { args: Vec::new() };
        // "--unshare-all" alone would only try for a user and a cgroup namespace, and do without.
        view.all(["--unshare-all", "--unshare-user", "--unshare-cgroup"]);
        view.all(["--uid", NOBODY, "--gid", NOBODY, "--cap-drop", "ALL"]);
        view.all(["--hostname", "sandbox", "--die-with-parent", "--as-pid-1", "--clearenv"]);
        view.all(["--ro-bind", "/usr", "/usr"]);
        for name in SYSTEM_DIRECTORIES {
            let path = Path::new("/").join(name);
            match fs::read_link(&path) {
                Ok(target) => view.arg("--symlink").arg(target).arg(path),
                Err(_) => view.arg("--ro-bind-try").arg(&path).arg(path),
            };
        }
        view.show_etc(&ETC);
        if network == Network::Host {
            view.arg("--share-net").show_etc(&ETC_FOR_NETWORK);
        }
        if let Some(path) = environment.map(Environment::path) {
            view.arg("--ro-bind").arg(path).arg(path);
        }
        view.all(["--proc", "/proc", "--dev", "/dev", "--dir", "/tmp", "--dir", "/work"]);
        // These two are in memory, which a job could fill.
        view.all(["--remount-ro", "/dev", "--remount-ro", "/"]);
        view
    }

    /// Shows a job what is its own, all on the worker's disk, where it is counted.
    pub(super) fn show_job(&mut self, dir: &JobDir) {
        let work = dir.path().join("work");
        for (outside, inside) in [(work, "/work"), (dir.tmp(), "/tmp"), (dir.shm(), "/dev/shm")] {
            self.arg("--bind").arg(outside).arg(inside);
        }
        self.arg("--chdir").arg("/work");
    }

    pub(super) fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(super) fn args(&self) -> &[OsString] {
        &self.args
    }

    fn all<const N: usize>(&mut self, args: [&str; N]) {
        self.args.extend(args.map(OsString::from));
    }

    fn show_etc(&mut self, names: &[&str]) {
        for name in names {
            let path = Path::new("/etc").join(name);
            self.arg("--ro-bind-try").arg(&path).arg(path);
        }
    }
}
