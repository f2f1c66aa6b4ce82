//! What a job must not be able to do.

use std::time::Duration;

use super::client::{GRANT, Part, TestWorker, sandbox};
use crate::runner::enforcement::Enforcement;
use crate::runner::limits::tests::ROOMY;
use crate::runner::limits::{Grant, NetworkPolicy};
use crate::runner::sandbox::{Sandbox, SandboxError};

/// A worker with real walls. On a machine that cannot have them, what is to be seen instead is that a worker that is
/// asked for them refuses to start.
async fn walled() -> Option<TestWorker> {
    match Sandbox::bubblewrap(&ROOMY, &Enforcement::find(&ROOMY)) {
        Ok(_) => Some(TestWorker::start(2).await),
        Err(refusal) => {
            assert!(refusal.to_string().len() > 40, "{refusal}");
            eprintln!("no walls on this machine: {refusal}");
            None
        }
    }
}

#[tokio::test]
async fn job_has_no_network() {
    let Some(worker) = walled().await else { return };
    let port = worker.address.port();
    let reached =
        format!("(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo reached || echo unreachable");
    assert_eq!(worker.output_of(&reached).await, "unreachable\n");
}

#[tokio::test]
async fn job_has_the_network_only_where_its_worker_grants_it() {
    let Some(worker) = walled().await else { return };
    let manifest = r#"{"entrypoint":"run.sh","interpreter":"bash","network":true}"#;
    let refused = worker.submit(&[Part::file("run.sh", b""), Part::manifest(manifest)], "").await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("--allow-network"), "{}", refused.text());

    let worker = TestWorker::granting(Grant { network: NetworkPolicy::OnRequest, ..GRANT }).await;
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{} && echo reached", worker.address.port());
    let id = worker.run(&script, manifest).await;
    assert_eq!(worker.end(&id).await["status"], "completed");
    let id = worker.run(&script, "{}").await;
    assert_eq!(worker.end(&id).await["status"], "failed", "one that does not ask has none");
}

#[tokio::test]
async fn job_sees_neither_secrets_nor_the_data_directory() {
    let Some(worker) = walled().await else { return };
    let data = worker.data.path().display().to_string();
    let script = format!(
        "for f in /etc/shadow /etc/passwd /root /home {data} /sys; do [ -e $f ] && echo $f; done; echo end"
    );
    assert_eq!(worker.output_of(&script).await, "end\n");
    assert_eq!(
        worker.output_of("ls -A /tmp; id -u; hostname; pwd; echo $HOME").await,
        "65534\nsandbox\n/work\n/tmp\n"
    );
}

#[tokio::test]
async fn job_writes_only_to_its_own_directories() {
    let Some(worker) = walled().await else { return };
    let script = "for d in /usr /usr/bin /etc /proc/sys/kernel; do touch $d/x 2>/dev/null && echo $d; done; touch /tmp/x x && echo ok";
    assert_eq!(worker.output_of(script).await, "ok\n");
    assert_eq!(
        worker
            .output_of("mount -t tmpfs x /usr 2>/dev/null && echo mounted; grep CapEff /proc/self/status")
            .await,
        "CapEff:\t0000000000000000\n"
    );
}

#[tokio::test]
async fn job_environment_is_its_manifest_and_nothing_of_the_worker() {
    let Some(worker) = walled().await else { return };
    let id =
        worker.run("env | sort", r#"{"entrypoint":"run.sh","interpreter":"sh","env":{"A":"b c"}}"#).await;
    worker.end(&id).await;
    let stdout = worker.get(&format!("/logs/{id}")).await.json()["stdout"].as_str().unwrap().to_owned();
    assert_eq!(stdout, "A=b c\nHOME=/tmp\nLANG=C.UTF-8\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD=/work\n");
}

#[tokio::test]
async fn job_sees_nothing_of_another_job_or_the_worker() {
    let Some(worker) = walled().await else { return };
    let key = worker.data.path().join("worker.pem");
    std::fs::write(&key, "secret").unwrap();
    let hides = "for f in /work /tmp /dev/shm; do echo x > $f/hidden.txt; done; echo ready; sleep 60";
    let other = worker.run(hides, "{}").await;
    while worker.get(&format!("/logs/{other}")).await.json()["stdout"] != "ready\n" {}
    let script = format!(
        "cat {} {}; find / -name 'hidden.*' -o -name '*.pem' -not -path '/usr/*';
         ls /proc > /tmp/seen; grep -c '^[0-9]' /tmp/seen",
        key.display(),
        worker.work_of(&other).join("hidden.txt").display()
    );
    // Its own processes: the first shell, the script's, and ls.
    assert_eq!(worker.output_of(&script).await, "3\n");
}

#[tokio::test]
async fn job_has_no_privileges_and_cannot_get_any() {
    let Some(worker) = walled().await else { return };
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | cut -f2 | sort -u; id -u; id -g";
    assert_eq!(worker.output_of(script).await, "0000000000000000\n1\n2\n65534\n65534\n");
    let script =
        "cat /etc/shadow || sudo -n true || su -c true || chroot / true || unshare -U true || echo refused";
    assert_eq!(worker.output_of(script).await, "refused\n");
}

#[tokio::test]
async fn system_calls_that_reach_into_the_kernel_are_refused() {
    let Some(worker) = walled().await else { return };
    let (eperm, enosys) = (libc::EPERM, libc::ENOSYS);
    let calls = [
        ("mount", libc::SYS_mount, 0, eperm),
        ("umount2", libc::SYS_umount2, 0, eperm),
        ("ptrace", libc::SYS_ptrace, 0, eperm),
        ("process_vm_readv", libc::SYS_process_vm_readv, 0, eperm),
        ("keyctl", libc::SYS_keyctl, 0, eperm),
        ("add_key", libc::SYS_add_key, 0, eperm),
        ("bpf", libc::SYS_bpf, 0, eperm),
        ("perf_event_open", libc::SYS_perf_event_open, 0, eperm),
        ("userfaultfd", libc::SYS_userfaultfd, 0, eperm),
        ("io_uring_setup", libc::SYS_io_uring_setup, 0, eperm),
        ("unshare", libc::SYS_unshare, libc::CLONE_NEWUSER, eperm),
        ("clone", libc::SYS_clone, libc::CLONE_NEWUSER, eperm),
        ("clone3", libc::SYS_clone3, 0, enosys),
        ("setns", libc::SYS_setns, 0, eperm),
        ("kexec_load", libc::SYS_kexec_load, 0, eperm),
        ("init_module", libc::SYS_init_module, 0, eperm),
        ("finit_module", libc::SYS_finit_module, 0, eperm),
        ("reboot", libc::SYS_reboot, 0, eperm),
        ("socket of the host's hypervisor", libc::SYS_socket, libc::AF_VSOCK, eperm),
        ("socket of the kernel's ciphers", libc::SYS_socket, libc::AF_ALG, eperm),
        ("x32", 0x4000_0000 | libc::SYS_getpid, 0, enosys),
    ];
    let mut script = "import ctypes\ncall = ctypes.CDLL(None, use_errno=True).syscall\n".to_owned();
    for (name, number, argument, _) in &calls {
        script +=
            &format!("print({name:?}, call({number}, {argument}, 0, 0, 0, 0) and ctypes.get_errno())\n");
    }
    // What must go on working: a thread, a socket, a child.
    script +=
        "import threading, socket, subprocess\nthreading.Thread(target=print, args=['thread']).start()\n";
    script += "socket.socketpair(), socket.socket()\nsubprocess.run(['echo', 'child'])\n";
    let answer = worker.submit(&[Part::file("main.py", script.as_bytes())], "").await;
    let id = answer.json()["job_id"].as_str().unwrap().to_owned();
    assert_eq!(worker.end(&id).await["status"], "completed");

    let expected = calls.map(|(name, _, _, errno)| format!("{name} {errno}\n")).concat();
    let stdout = worker.get(&format!("/logs/{id}")).await.json()["stdout"].as_str().unwrap().to_owned();
    let mut lines: Vec<&str> = stdout.lines().collect();
    // A child writes at once, and Python when it ends.
    lines.retain(|line| !matches!(*line, "child" | "thread"));
    assert_eq!(lines, expected.lines().collect::<Vec<_>>());
    assert!(stdout.contains("child") && stdout.contains("thread"), "{stdout}");
}

#[tokio::test]
async fn devices_are_those_that_a_job_needs_and_not_its_to_add_to() {
    let Some(worker) = walled().await else { return };
    let script = "touch /dev/x || mknod zero c 1 5 || mknod /dev/shm/disk b 8 0 || echo none
        ls /dev; echo ok > /dev/shm/x; cat /dev/shm/x; head -c 1 /dev/urandom | wc -c";
    let shown = worker.output_of(script).await;
    assert!(shown.starts_with("none\n") && shown.ends_with("\nok\n1\n"), "{shown}");
    for device in ["mem", "kmsg", "fuse", "kvm", "vda", "sda", "vsock"] {
        assert!(!shown.lines().any(|line| line == device), "{shown}");
    }
}

#[tokio::test]
async fn daemon_that_detaches_ends_with_its_job() {
    let Some(worker) = walled().await else { return };
    // A number of seconds that no other process sleeps.
    let id = worker.run("(setsid setsid sleep 600.125 &) & sleep 0.3; echo done", "{}").await;
    assert_eq!(worker.end(&id).await["status"], "completed");
    let sleeps = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        lines.any(|line| line.windows(7).any(|part| part == b"600.125"))
    };
    assert!(!sleeps());
}

#[tokio::test]
async fn timeout_ends_everything_a_job_has_started() {
    for sandbox in [sandbox(), Sandbox::None] {
        let worker = TestWorker::with(1, sandbox, Duration::from_secs(60)).await;
        // The background process would write its file long before the test ends, were it left alive.
        let script = "trap '' TERM; (sleep 1; touch survived) & sleep 600";
        let id = worker.run(script, r#"{"timeout":0.3}"#).await;
        let status = worker.end(&id).await;
        assert_eq!((status["status"].as_str(), status["reason"].as_str()), (Some("failed"), Some("timeout")));
        assert_eq!(status["execution_metadata"]["exit_code"], 137);
        let after = worker.run("sleep 1.2", "{}").await;
        worker.end(&after).await;
        assert_eq!(worker.get(&format!("/download/{id}/survived")).await.status, 404);
    }
}

#[test]
fn user_whose_processes_the_kernel_does_not_count_gets_no_worker_without_control_groups() {
    match Sandbox::bubblewrap(&ROOMY, &Enforcement::Rlimit) {
        Err(SandboxError::Unbounded) => {
            assert!(SandboxError::Unbounded.to_string().contains("as an ordinary user"));
        }
        Err(refusal) => eprintln!("no walls on this machine: {refusal}"),
        // It is one whose processes are counted; that this holds a job is tested from outside.
        Ok(_) => {}
    }
}
