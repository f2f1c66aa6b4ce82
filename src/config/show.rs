//! A configuration as text: a file that says the same, so that what is in force can be read, kept and compared.

use std::fmt;
use std::net::SocketAddr;

use super::units::{show_duration, show_size};
use super::{
    AuthConfig, Certificate, Config, GuardConfig, InspectMode, ServerConfig, TlsConfig, UploadsConfig,
};
use crate::api::origins::AllowedOrigins;
use crate::auth::jwt::JwtConfig;
use crate::auth::limits::ClientLimits;
use crate::worker::WorkerSpec;

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            listen,
            tls,
            auth,
            client_limits,
            allow_origins,
            data,
            workers,
            trust,
            uploads,
            dispatch,
            history,
            outputs,
            health,
            server,
            log,
        } = self;
        show_addresses(f, "listen", listen)?;
        show_tls(f, tls.as_ref())?;
        match auth {
            AuthConfig::Unset => {}
            AuthConfig::Open => writeln!(f, "auth: none")?,
            AuthConfig::Guarded(guard) => {
                show_guard(f, guard)?;
            }
        }
        show_client_limits(f, client_limits)?;
        show_cors(f, allow_origins.as_ref())?;
        writeln!(f, "data: {}", quoted(&data.display().to_string()))?;
        writeln!(f, "trust:")?;
        writeln!(f, "  require: {}", trust.require)?;
        writeln!(f, "max_upload: {}", show_size(uploads.bytes_max))?;
        writeln!(f, "submit_timeout: {}", show_duration(dispatch.submit_timeout))?;
        writeln!(f, "status_timeout: {}", show_duration(dispatch.status_timeout))?;
        writeln!(f, "worker_lost_after: {}", show_duration(dispatch.worker_lost_after))?;
        writeln!(f, "on_unknown: {}", dispatch.defaults.on_unknown)?;
        writeln!(f, "on_worker_lost: {}", dispatch.defaults.on_worker_lost)?;
        writeln!(f, "max_attempts: {}", dispatch.defaults.max_attempts)?;
        if let Some(timeout) = dispatch.defaults.queue_timeout {
            writeln!(f, "queue_timeout: {}", show_duration(timeout))?;
        }
        writeln!(f, "max_queued_jobs: {}", dispatch.queued_jobs_max)?;
        writeln!(f, "max_open_uploads: {}", uploads.open_max)?;
        writeln!(f, "max_spool_bytes: {}", show_size(uploads.spool_bytes_max))?;
        writeln!(f, "retry_keep: {}", show_duration(history.retry_keep))?;
        writeln!(f, "history:")?;
        writeln!(f, "  keep: {}", show_duration(history.keep))?;
        writeln!(f, "  max_log_bytes: {}", show_size(history.log_bytes_max))?;
        writeln!(f, "outputs:")?;
        writeln!(f, "  keep: {}", show_duration(outputs.keep))?;
        writeln!(f, "  max_job_bytes: {}", show_size(outputs.job_bytes_max))?;
        writeln!(f, "  max_total_bytes: {}", show_size(outputs.total_bytes_max))?;
        writeln!(f, "health:")?;
        writeln!(f, "  interval: {}", show_duration(health.interval))?;
        writeln!(f, "  timeout: {}", show_duration(health.timeout))?;
        show_uploads(f, uploads)?;
        show_server(f, server)?;
        writeln!(f, "log: {}", quoted(&log.to_string().to_lowercase()))?;
        writeln!(f, "workers:")?;
        workers.workers().iter().try_for_each(|worker| show_worker(f, worker))
    }
}

fn show_uploads(f: &mut fmt::Formatter<'_>, uploads: &UploadsConfig) -> fmt::Result {
    writeln!(f, "uploads:")?;
    writeln!(f, "  timeout: {}", show_duration(uploads.timeout))?;
    writeln!(f, "  idle_timeout: {}", show_duration(uploads.idle_timeout))?;
    writeln!(f, "  inspect: {}", uploads.inspect)?;
    writeln!(f, "  max_entries: {}", uploads.archives.entries_max)?;
    writeln!(f, "  max_unpacked: {}", show_size(uploads.archives.unpacked_bytes_max))
}

fn show_server(f: &mut fmt::Formatter<'_>, server: &ServerConfig) -> fmt::Result {
    writeln!(f, "server:")?;
    writeln!(f, "  threads: {}", server.threads)?;
    writeln!(f, "  header_timeout: {}", show_duration(server.header_timeout))?;
    writeln!(f, "  idle_timeout: {}", show_duration(server.idle_timeout))?;
    writeln!(f, "  max_connections_per_address: {}", server.connections_per_address_max)?;
    writeln!(f, "  shutdown_timeout: {}", show_duration(server.shutdown_timeout))
}

impl fmt::Display for InspectMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tar => "tar",
            Self::None => "none",
        })
    }
}

/// Without a plain address there is one with TLS, and no line for the plain ones.
fn show_addresses(f: &mut fmt::Formatter<'_>, key: &str, addresses: &[SocketAddr]) -> fmt::Result {
    if addresses.is_empty() {
        return Ok(());
    }
    let listen: Vec<String> = addresses.iter().map(|address| quoted(&address.to_string())).collect();
    writeln!(f, "{key}: [{}]", listen.join(", "))
}

fn show_tls(f: &mut fmt::Formatter<'_>, tls: Option<&TlsConfig>) -> fmt::Result {
    let Some(TlsConfig { listen, certificate, client_ca }) = tls else { return Ok(()) };
    show_addresses(f, "listen_tls", listen)?;
    match certificate {
        Certificate::Files { cert, key } => {
            writeln!(f, "cert: {}", quoted(&cert.display().to_string()))?;
            writeln!(f, "key: {}", quoted(&key.display().to_string()))?;
        }
        Certificate::Dev => writeln!(f, "# --dev-tls: the pool makes its certificate")?,
        Certificate::Missing => {}
    }
    match client_ca {
        Some(path) => writeln!(f, "client_ca: {}", quoted(&path.display().to_string())),
        None => Ok(()),
    }
}

fn show_guard(f: &mut fmt::Formatter<'_>, guard: &GuardConfig) -> fmt::Result {
    match guard {
        GuardConfig { tokens: None, jwt: None } => writeln!(f, "auth: tokens"),
        GuardConfig { tokens, jwt } => {
            writeln!(f, "auth:")?;
            if let Some(path) = tokens {
                writeln!(f, "  tokens: {}", quoted(&path.display().to_string()))?;
            }
            show_jwt(f, jwt.as_ref())
        }
    }
}

fn show_jwt(f: &mut fmt::Formatter<'_>, jwt: Option<&JwtConfig>) -> fmt::Result {
    let Some(JwtConfig { issuer, audience, jwks, role_claim, algorithms }) = jwt else { return Ok(()) };
    let algorithms: Vec<String> = algorithms.iter().map(ToString::to_string).collect();
    writeln!(f, "  jwt:")?;
    writeln!(f, "    issuer: {}", quoted(issuer))?;
    writeln!(f, "    audience: {}", quoted(audience))?;
    writeln!(f, "    jwks: {}", quoted(&jwks.display().to_string()))?;
    writeln!(f, "    role_claim: {}", quoted(role_claim))?;
    writeln!(f, "    algorithms: [{}]", algorithms.join(", "))
}

fn show_cors(f: &mut fmt::Formatter<'_>, origins: Option<&AllowedOrigins>) -> fmt::Result {
    match origins {
        None => Ok(()),
        Some(AllowedOrigins::Any) => writeln!(f, "cors:\n  allow_origins: \"*\""),
        Some(AllowedOrigins::These(origins)) => {
            let origins: Vec<String> = origins.iter().map(|origin| quoted(&origin.to_string())).collect();
            writeln!(f, "cors:\n  allow_origins: [{}]", origins.join(", "))
        }
    }
}

fn show_client_limits(f: &mut fmt::Formatter<'_>, limits: &ClientLimits) -> fmt::Result {
    let ClientLimits { queued_jobs, requests_per_second, upload_bytes_per_minute } = limits;
    writeln!(f, "client_limits:")?;
    if let Some(jobs) = queued_jobs {
        writeln!(f, "  queued_jobs: {jobs}")?;
    }
    if let Some(requests) = requests_per_second {
        writeln!(f, "  requests_per_second: {requests}")?;
    }
    if let Some(bytes) = upload_bytes_per_minute {
        writeln!(f, "  upload_per_minute: {}", show_size(*bytes))?;
    }
    Ok(())
}

fn show_worker(f: &mut fmt::Formatter<'_>, worker: &WorkerSpec) -> fmt::Result {
    let WorkerSpec { key, endpoint, max_concurrent_jobs, labels } = worker;
    writeln!(f, "  - worker_id: {}", quoted(&key.to_string()))?;
    writeln!(f, "    endpoint: {}", quoted(&endpoint.to_string()))?;
    if let Some(jobs) = max_concurrent_jobs {
        writeln!(f, "    max_concurrent_jobs: {jobs}")?;
    }
    if !labels.is_empty() {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{}: {}", quoted(name), quoted(value))).collect();
        writeln!(f, "    labels: {{{}}}", labels.join(", "))?;
    }
    Ok(())
}

/// Every JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
