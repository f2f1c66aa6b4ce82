//! The keys that say who reaches the pool and how: TLS and clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::file::read_addresses;
use super::problem::{Place, Problem};
use super::section::{Section, Value};
use super::{AuthConfig, Certificate, Config, GuardConfig, ServeArgs, TlsConfig};
use crate::api::origins::{AllowedOrigins, Origin};
use crate::auth::jwt::{JwtAlgorithm, JwtConfig};

/// Where a pool with a certificate for trying out listens, unless told otherwise.
const DEV_PORT: u16 = 9443;

/// Reads `listen`, `listen_tls`, `cert`, `key` and `client_ca`; `file` is what their paths are relative to.
pub(super) fn read_listeners(top: &mut Section<'_>, file: &Path, config: &mut Config) {
    let listen = addresses(top, "listen");
    let listen_tls = addresses(top, "listen_tls");
    let cert = path(top, "cert", file);
    let key = path(top, "key", file);
    let client_ca = path(top, "client_ca", file);
    let asks_for_tls = listen_tls.is_some() || cert.is_some() || key.is_some() || client_ca.is_some();
    match listen {
        Some(addresses) => config.listen = addresses,
        // Whoever asks for TLS does not ask for a plain port as well.
        None if listen_tls.is_some() => config.listen.clear(),
        None => {}
    }
    if asks_for_tls {
        let certificate = match (cert, key) {
            (Some(cert), Some(key)) => Certificate::Files { cert, key },
            (None, None) => Certificate::Missing,
            (Some(_), None) => return top.missing("key"),
            (None, Some(_)) => return top.missing("cert"),
        };
        let listen = listen_tls.unwrap_or_default();
        config.tls = Some(TlsConfig { listen, certificate, client_ca });
    }
}

fn addresses(top: &mut Section<'_>, key: &'static str) -> Option<Vec<SocketAddr>> {
    let value = top.take(key)?;
    read_addresses(&value).map_err(|problem| top.report(problem)).ok()
}

fn path(section: &mut Section<'_>, key: &'static str, file: &Path) -> Option<PathBuf> {
    let value = section.take(key)?;
    let path = value.read(|text| match text {
        "" => Err("names no file".to_owned()),
        _ => Ok(file.parent().unwrap_or(Path::new("")).join(text)),
    });
    path.map_err(|problem| section.report(problem)).ok()
}

/// Reads `auth`: one word, or a section.
pub(super) fn read_auth(top: &mut Section<'_>, file: &Path, config: &mut Config) {
    let Some(value) = top.take("auth") else { return };
    let read = if value.is_mapping() { auth_section(&value, file) } else { auth_word(&value) };
    match read {
        Ok(auth) => config.auth = auth,
        Err(problems) => {
            // That something was said is no reason to complain that nothing was.
            config.auth = AuthConfig::Guarded(GuardConfig::default());
            problems.into_iter().for_each(|problem| top.report(problem));
        }
    }
}

fn auth_word(value: &Value<'_>) -> Result<AuthConfig, Vec<Problem>> {
    let word = value.read(|text| match text {
        "none" => Ok(AuthConfig::Open),
        "tokens" => Ok(AuthConfig::Guarded(GuardConfig::default())),
        _ => Err("is neither none nor tokens, nor a section with tokens".to_owned()),
    });
    word.map_err(|problem| vec![problem])
}

fn auth_section(value: &Value<'_>, file: &Path) -> Result<AuthConfig, Vec<Problem>> {
    let mut section = value.section().map_err(|problem| vec![problem])?;
    let tokens = path(&mut section, "tokens", file);
    let mut jwt = None;
    section.section("jwt", |section| jwt = read_jwt(section, file));
    let problems = section.finish();
    if problems.is_empty() { Ok(AuthConfig::Guarded(GuardConfig { tokens, jwt })) } else { Err(problems) }
}

/// Reads `cors`: `allow_origins` is a list, or `"*"` for every origin.
pub(super) fn read_cors(top: &mut Section<'_>, config: &mut Config) {
    top.section("cors", |section| {
        let Some(value) = section.take("allow_origins") else { return };
        let origin = |text: &str| {
            text.parse::<Origin>().map_err(|_| {
                "is no origin; write for example https://front.example.com, without a path and in lower case".to_owned()
            })
        };
        let read = match value.items() {
            Some(items) if items.len() > ORIGINS_MAX => {
                Err(value.problem(format!("names more than {ORIGINS_MAX} origins")))
            }
            Some(items) => items.iter().map(|item| item.read(origin)).collect::<Result<_, _>>().map(AllowedOrigins::These),
            None => value.read(|text| match text {
                "*" => Ok(AllowedOrigins::Any),
                one => origin(one).map(|one| AllowedOrigins::These(vec![one])),
            }),
        };
        match read {
            Ok(origins) => config.allow_origins = Some(origins),
            Err(problem) => section.report(problem),
        }
    });
}

/// Each is compared for every request of a page.
const ORIGINS_MAX: usize = 64;

/// An issuer; `None` when something is missing or wrong, which is reported.
fn read_jwt(section: &mut Section<'_>, file: &Path) -> Option<JwtConfig> {
    let text = |text: &str| match text {
        "" => Err("is empty".to_owned()),
        _ => Ok(text.to_owned()),
    };
    let issuer = section.require("issuer", text);
    let audience = section.require("audience", text);
    let jwks = section.require("jwks", text);
    let mut role_claim = "role".to_owned();
    section.read("role_claim", &mut role_claim, text);
    let algorithms = match section.take("algorithms") {
        None => JwtAlgorithm::DEFAULT.to_vec(),
        Some(value) => {
            let one = |value: &Value<'_>| value.read(|text| text.parse().map_err(|_| ALGORITHMS.to_owned()));
            let items = value.items().unwrap_or_default();
            let read: Result<Vec<_>, _> = items.iter().map(one).collect();
            match read {
                Ok(algorithms) if !algorithms.is_empty() => algorithms,
                Ok(_) => {
                    section.report(value.problem("is not a list of algorithms"));
                    return None;
                }
                Err(problem) => {
                    section.report(problem);
                    return None;
                }
            }
        }
    };
    let jwks = file.parent().unwrap_or(Path::new("")).join(jwks?);
    Some(JwtConfig { issuer: issuer?, audience: audience?, jwks, role_claim, algorithms })
}

const ALGORITHMS: &str = "is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";

/// Puts the flags about TLS in force, and holds what must be so whatever file or flag said it.
pub(super) fn settle(args: &ServeArgs, config: &mut Config, problems: &mut Vec<Problem>) {
    let place =
        || args.config.as_ref().map_or(Place::CommandLine, |path| Place::File(path.display().to_string()));
    if args.dev_tls {
        match &mut config.tls {
            Some(TlsConfig { certificate: Certificate::Files { .. }, .. }) => problems.push(Problem::new(
                Place::CommandLine,
                "--dev-tls",
                "makes a certificate, and the configuration file names one: leave one of them out",
            )),
            Some(tls) => tls.certificate = Certificate::Dev,
            None => {
                let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEV_PORT))];
                config.tls = Some(TlsConfig { listen, certificate: Certificate::Dev, client_ca: None });
            }
        }
    }
    if let Some(tls) = &config.tls {
        if tls.certificate == Certificate::Missing {
            let message = "is missing, and so is key: name the files, or try TLS out with --dev-tls";
            problems.push(Problem::new(place(), "cert", message));
        }
        if tls.listen.is_empty() {
            problems.push(Problem::new(
                place(),
                "listen_tls",
                "is missing: where is the certificate to be shown?",
            ));
        }
        if let Some(both) =
            tls.listen.iter().find(|address| address.port() != 0 && config.listen.contains(address))
        {
            problems.push(Problem::new(place(), "listen_tls", format!("\"{both}\" is in listen as well")));
        }
    }
    let open_to_others = config.addresses().find(|address| !address.ip().is_loopback());
    if let (Some(address), AuthConfig::Unset) = (open_to_others, &config.auth) {
        let message = format!(
            "is missing: {address} is reached from other machines. `auth: tokens` lets in who has a token \
             (trusted-pool token new); `auth: none` lets everybody run jobs"
        );
        problems.push(Problem::new(place(), "auth", message));
    }
}
