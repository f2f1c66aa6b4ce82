//! Environments that an operator has prepared.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::client::{Part, TestWorker, sandbox};
use crate::runner::environment::Environments;
use crate::runner::interpreter::Interpreter;
use crate::runner::sandbox::Sandbox;

/// A directory with a venv, `ml`, that has a package and a program of its own.
fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let venv = dir.path().join("ml");
    let mut made = Command::new(Interpreter::Python3.locate().unwrap());
    assert!(made.args(["-m", "venv", "--without-pip"]).arg(&venv).status().unwrap().success());
    let packages =
        fs::read_dir(venv.join("lib")).unwrap().next().unwrap().unwrap().path().join("site-packages");
    fs::write(packages.join("prepared.py"), "word = 'prepared'").unwrap();
    let program = venv.join("bin/say");
    fs::write(&program, format!("#!{}/bin/python3\nimport prepared; print(prepared.word)", venv.display()))
        .unwrap();
    assert!(Command::new("chmod").arg("755").arg(program).status().unwrap().success());
    fs::create_dir(dir.path().join("other")).unwrap();
    dir
}

async fn run(worker: &TestWorker, file: (&str, &str), manifest: &str) -> (serde_json::Value, String) {
    let parts = [Part::file(file.0, file.1.as_bytes()), Part::manifest(manifest)];
    let answer = worker.submit(&parts, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = answer.json()["job_id"].as_str().unwrap().to_owned();
    let status = worker.end(&id).await;
    let logs = worker.get(&format!("/logs/{id}")).await.json();
    (status, format!("{}{}", logs["stdout"].as_str().unwrap(), logs["stderr"].as_str().unwrap()))
}

#[tokio::test]
async fn job_has_the_environment_that_it_names_and_cannot_write_to_it() {
    let dir = prepared();
    for walls in [sandbox(), Sandbox::None] {
        let worker =
            TestWorker::in_environments(walls.clone(), Environments::open(dir.path()).unwrap()).await;
        let python = "import prepared, subprocess, sys
print(prepared.word, sys.prefix, flush=True)
subprocess.run('say')";
        let manifest = r#"{"entrypoint":"main.py","environment":"ml"}"#;
        let (status, log) = run(&worker, ("main.py", python), manifest).await;
        let prefix = dir.path().join("ml").display().to_string();
        assert_eq!(log, format!("prepared {prefix}\nprepared\n"));
        assert_eq!(status["execution_metadata"]["environment"], "ml");
        let plain = r#"{"entrypoint":"main.py"}"#;
        assert_eq!(run(&worker, ("main.py", "import prepared"), plain).await.0["status"], "failed");

        if let Sandbox::Bubblewrap(_) = walls {
            let script = format!("touch {prefix}/x || echo refused; ls {}", dir.path().display());
            let manifest = r#"{"entrypoint":"run.sh","interpreter":"sh","environment":"ml"}"#;
            let (_, log) = run(&worker, ("run.sh", &script), manifest).await;
            assert!(log.starts_with("refused\nml\n"), "{log}");
        }
    }
}

#[tokio::test]
async fn environments_are_listed_and_what_a_worker_has_not_is_refused() {
    let dir = prepared();
    let worker = TestWorker::in_environments(sandbox(), Environments::open(dir.path()).unwrap()).await;
    assert_eq!(
        worker.get("/environments").await.json(),
        json!({"environments": [
            {"name": "ml", "interpreters": ["python3", "python"]}, {"name": "other", "interpreters": []}
        ]})
    );
    for (manifest, part) in [
        (r#"{"environment":"gpu"}"#, "which has ml, other"),
        (r#"{"environment":"../ml"}"#, "not on this worker"),
        (r#"{"requirements":["numpy"]}"#, "this worker installs nothing"),
    ] {
        let refused = worker.submit(&[Part::file("main.py", b""), Part::manifest(manifest)], "").await;
        assert_eq!(refused.status, 400);
        assert!(refused.text().contains(part), "{}", refused.text());
    }
    let none = TestWorker::start(1).await;
    assert_eq!(none.get("/environments").await.json(), json!({"environments": []}));
}

#[tokio::test]
async fn worker_does_not_keep_its_data_where_jobs_can_read_it() {
    let dir = prepared();
    let environments = Environments::open(dir.path()).unwrap();
    assert!(environments.show(&dir.path().join("ml")) && !environments.show(Path::new("/var/tmp")));
}
