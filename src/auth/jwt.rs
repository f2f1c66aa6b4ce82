//! Tokens that an OIDC issuer signed (JWT), checked with the keys in a file: the pool asks nobody over the network.
//!
//! The issuer's subject is the client, under a name that no token of the pool's own can have. Algorithms are allowed by name, none
//! of them symmetric, so that a public key is never taken for a shared secret; a key is chosen by its id, and used only for the
//! algorithm that it is for.

mod ring_verifier;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::{Caller, Denied, Role};

/// What a token's subject is prefixed with; no name of `token new` has a colon.
const CLIENT_PREFIX: &str = "oidc:";

/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY_SECONDS: u64 = 30;

/// Bytes of a file of keys, and keys in it: an issuer has a handful.
const JWKS_BYTES_MAX: u64 = 1 << 20;
const KEYS_MAX: usize = 100;

/// Whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// The claim `iss`, to the letter.
    pub issuer: String,
    /// What the claim `aud` must be, or hold.
    pub audience: String,
    /// The issuer's keys, a JSON file.
    pub jwks: PathBuf,
    /// The claim that names the role; dots lead into objects.
    pub role_claim: String,
    pub algorithms: Vec<JwtAlgorithm>,
}

/// An algorithm that tokens may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwtAlgorithm(Algorithm);

/// The text names no algorithm that could be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownAlgorithm;

impl JwtAlgorithm {
    /// What issuers sign with.
    pub const DEFAULT: [Self; 3] = [Self(Algorithm::RS256), Self(Algorithm::ES256), Self(Algorithm::EdDSA)];
}

impl FromStr for JwtAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        let algorithm: Algorithm = text.parse().map_err(|_| UnknownAlgorithm)?;
        if algorithm_family(algorithm) == Some(AlgorithmFamily::Hmac) {
            return Err(UnknownAlgorithm);
        }
        Ok(Self(algorithm))
    }
}

impl std::fmt::Display for JwtAlgorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn algorithm_family(algorithm: Algorithm) -> Option<AlgorithmFamily> {
    use AlgorithmFamily::{Ec, Ed, Hmac, Rsa};
    [Hmac, Rsa, Ec, Ed].into_iter().find(|family| family.algorithms().contains(&algorithm))
}

/// Checks tokens of one issuer.
#[derive(Debug)]
pub struct JwtVerifier {
    config: JwtConfig,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, where its issuer says.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// What of a token counts. The rest of it is anybody's.
#[derive(Deserialize)]
struct Claims {
    /// One text; a list would leave open who vouches.
    #[serde(rename = "iss")]
    _issuer: String,
    sub: String,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

impl JwtVerifier {
    /// Reads the issuer's keys.
    ///
    /// # Errors
    /// What is wrong with the file, with its path.
    pub fn read(config: &JwtConfig) -> Result<Self, String> {
        ring_verifier::install();
        let keys = keys(&config.jwks).map_err(|what| format!("jwks {}: {what}", config.jwks.display()))?;
        Ok(Self { config: config.clone(), keys })
    }

    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Who presents this token now, by the system's clock.
    pub fn verify(&self, text: &str) -> Result<Caller, Denied> {
        let header = jsonwebtoken::decode_header(text).map_err(|_| Denied::Invalid)?;
        // An extension that must be understood, and is not.
        if header.crit.is_some() || !self.config.algorithms.contains(&JwtAlgorithm(header.alg)) {
            return Err(Denied::Invalid);
        }
        let key = self.key(header.kid.as_deref(), header.alg).ok_or(Denied::Invalid)?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let token =
            jsonwebtoken::decode::<Claims>(text, &key.key, &validation).map_err(|_| Denied::Invalid)?;
        if token.claims.sub.is_empty() {
            return Err(Denied::Invalid);
        }
        let name = format!("{CLIENT_PREFIX}{}", token.claims.sub).parse().map_err(|_| Denied::Invalid)?;
        let role = role(&token.claims.others, &self.config.role_claim).ok_or(Denied::Unprivileged)?;
        Ok(Caller::Client { name, role })
    }

    /// The key of this id; a token without one needs no choice where there is a single key.
    fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let key = match (id, &self.keys[..]) {
            (None, [only]) => only,
            (None, _) => return None,
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id))?,
        };
        let fits = key.algorithm.is_none_or(|only| only == algorithm);
        (fits && algorithm_family(algorithm) == Some(key.key.family())).then_some(key)
    }
}

/// The highest role that a claim names: a text, or a list of texts of which others may mean something elsewhere.
fn role(claims: &BTreeMap<String, Value>, path: &str) -> Option<Role> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let mut value = claims.get(path).or_else(|| claims.get(first))?;
    if !claims.contains_key(path) {
        for key in rest.into_iter().flat_map(|rest| rest.split('.')) {
            value = value.get(key)?;
        }
    }
    let named = |value: &Value| value.as_str().and_then(|text| text.parse::<Role>().ok());
    match value {
        Value::Array(values) => values.iter().filter_map(named).max(),
        value => named(value),
    }
}

fn keys(path: &Path) -> Result<Vec<Key>, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > JWKS_BYTES_MAX {
        return Err(format!("is no file of at most {JWKS_BYTES_MAX} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let set: JwkSet = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if set.keys.len() > KEYS_MAX {
        return Err(format!("has more than {KEYS_MAX} keys"));
    }
    let keys: Vec<Key> = set.keys.iter().filter_map(key).collect();
    if keys.is_empty() { Err("has no public key to check signatures with".to_owned()) } else { Ok(keys) }
}

/// A key that signatures can be checked with; others that an issuer publishes are not ours to use.
fn key(jwk: &Jwk) -> Option<Key> {
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    let public = key.family() != AlgorithmFamily::Hmac;
    let algorithm = jwk.common.key_algorithm.map(Algorithm::try_from).transpose().ok()?;
    (for_signatures && public).then(|| Key { id: jwk.common.key_id.clone(), algorithm, key })
}

#[cfg(test)]
mod tests;
