//! A certificate for trying TLS out: P-256, which browsers take, signed by itself, for this machine's names alone.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

/// Short, because nobody can revoke it.
const LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// One with less to live than this is made anew at the next start.
const RENEWED_BEFORE_END: Duration = Duration::from_secs(30 * 86_400);

/// The certificate and its key, made unless there are some that last a while for these addresses; says how to trust them.
pub fn ensure(data: &Path, listen: &[SocketAddr]) -> Result<(PathBuf, PathBuf), String> {
    let directory = data.join("dev-tls");
    let names = names(listen);
    // What the files were made for: a change of addresses wants another certificate.
    let label = directory.join(format!("for-{}", names.join("_").replace(':', ".")));
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    if !is_fresh(&label) || !cert.is_file() || !key.is_file() {
        make(&directory, &cert, &key, &label, &names)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let shown = fs::canonicalize(&cert).unwrap_or_else(|_| cert.clone());
    let (shown, port) = (shown.display(), listen.first().map_or(0, SocketAddr::port));
    eprintln!(
        "TLS with a certificate for trying it out, signed by nobody but itself. To trust it:\n  \
         curl --cacert {shown} https://localhost:{port}/health\n  \
         trusted-pool workers --ca {shown} --pool https://localhost:{port}\n  \
         in a browser: import {shown} as an authority, and remove it when you are done"
    );
    Ok((cert, key))
}

/// `localhost`, loopback, and the addresses that are listened on.
fn names(listen: &[SocketAddr]) -> Vec<String> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(
        listen
            .iter()
            .filter(|address| !address.ip().is_unspecified())
            .map(|address| address.ip().to_string()),
    );
    names.into_iter().collect()
}

fn is_fresh(label: &Path) -> bool {
    let made = fs::metadata(label).and_then(|metadata| metadata.modified());
    let age = made.ok().and_then(|made| SystemTime::now().duration_since(made).ok());
    age.is_some_and(|age| age < LIFETIME - RENEWED_BEFORE_END)
}

fn make(directory: &Path, cert: &Path, key: &Path, label: &Path, names: &[String]) -> io::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
    let certificate = params(names).and_then(|params| params.self_signed(&pair)).map_err(io::Error::other)?;
    write(key, &pair.serialize_pem())?;
    write(cert, &certificate.pem())?;
    // Last: with it, the others are whole.
    write(label, "")
}

fn params(names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "trusted-pool, for trying out");
    params.distinguished_name = subject;
    // A clock that is a little behind must not find it from the future.
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + LIFETIME).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_again_for_other_addresses() {
        let data = tempfile::tempdir().unwrap();
        let read = |listen: &str| {
            let (cert, _) = ensure(data.path(), &[listen.parse().unwrap()]).unwrap();
            fs::read_to_string(cert).unwrap()
        };
        let first = read("127.0.0.1:9443");
        assert_eq!(read("127.0.0.1:9444"), first);
        assert_ne!(read("192.0.2.1:9443"), first);
    }
}
