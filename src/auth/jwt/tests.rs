//! Tokens of an issuer: what is taken, and everything that is not.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;
use crate::time::Clock;

/// An issuer with a P-256 and an Ed25519 key.
struct Issuer {
    p256: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let p256 =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self { p256, ed25519: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap() }
    }

    fn jwks(&self) -> Value {
        let point = self.p256.public_key().as_ref();
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "p256", "use": "sig", "alg": "ES256",
             "x": encoded(&point[1..33]), "y": encoded(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encoded(self.ed25519.public_key().as_ref())},
            {"kty": "oct", "kid": "secret", "k": encoded(b"a shared secret")},
        ]})
    }

    fn verifier(&self) -> JwtVerifier {
        let directory = tempfile::tempdir().unwrap();
        let jwks = directory.path().join("jwks.json");
        fs::write(&jwks, self.jwks().to_string()).unwrap();
        JwtVerifier::read(&config(jwks)).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message =
            format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()));
        let signature = match header["alg"].as_str() {
            Some("EdDSA") => self.ed25519.sign(message.as_bytes()).as_ref().to_vec(),
            Some("none") => Vec::new(),
            _ => self.p256.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{message}.{}", encoded(&signature))
    }
}

fn config(jwks: PathBuf) -> JwtConfig {
    JwtConfig {
        issuer: "https://id.example.com".into(),
        audience: "trusted-pool".into(),
        jwks,
        role_claim: "roles".into(),
        algorithms: JwtAlgorithm::DEFAULT.to_vec(),
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> i64 {
    Clock::System.now().as_micros() / 1_000_000
}

fn claims() -> Value {
    json!({"iss": "https://id.example.com", "aud": "trusted-pool", "sub": "alice", "exp": now() + 300,
           "roles": ["offline_access", "submit"]})
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(key)),
        value => claims[key] = value,
    }
    claims
}

fn es256() -> Value {
    json!({"alg": "ES256", "kid": "p256"})
}

#[test]
fn a_token_of_the_issuer_is_its_subject_with_the_highest_role_it_names() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier();
    assert_eq!(verifier.keys(), 2);
    for header in [es256(), json!({"alg": "EdDSA", "kid": "ed"})] {
        let caller = verifier.verify(&issuer.sign(&header, &claims())).unwrap();
        assert_eq!(caller, Caller::Client { name: "oidc:alice".parse().unwrap(), role: Role::Submit });
    }
    for (roles, role) in [
        (json!("admin"), Ok(Role::Admin)),
        (json!(["read", "admin", 7]), Ok(Role::Admin)),
        (json!(["Admin"]), Err(Denied::Unprivileged)),
        (json!({"admin": true}), Err(Denied::Unprivileged)),
        (Value::Null, Err(Denied::Unprivileged)),
    ] {
        let caller = verifier.verify(&issuer.sign(&es256(), &with("roles", roles.clone())));
        let found = caller.map(|caller| match caller {
            Caller::Client { role, .. } => role,
            Caller::Anyone => panic!("anyone"),
        });
        assert_eq!(found, role, "{roles}");
    }
}

#[test]
fn an_audience_may_be_one_of_several() {
    let issuer = Issuer::new();
    let token = issuer.sign(&es256(), &with("aud", json!(["account", "trusted-pool"])));
    assert!(issuer.verifier().verify(&token).is_ok());
}

#[test]
fn what_the_claims_must_be_is_held() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier();
    for (key, value) in [
        ("iss", json!("https://id.example.com/")),
        ("iss", json!(["https://id.example.com", "https://evil.example.com"])),
        ("iss", Value::Null),
        ("aud", json!("another")),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("exp", json!(now() - 60)),
        ("exp", json!("tomorrow")),
        ("exp", Value::Null),
        ("nbf", json!(now() + 60)),
        ("nbf", json!("yesterday")),
        ("sub", Value::Null),
        ("sub", json!("")),
        ("sub", json!("a b")),
        ("sub", json!("x".repeat(300))),
    ] {
        let claims = with(key, value);
        let verdict = verifier.verify(&issuer.sign(&es256(), &claims));
        assert_eq!(verdict, Err(Denied::Invalid), "{claims}");
    }
}

#[test]
fn only_allowed_algorithms_with_the_key_that_is_for_them() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier();
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "none", "kid": "p256"}),
        json!({"alg": "HS256", "kid": "secret"}),
        json!({"alg": "HS256", "kid": "p256"}),
        json!({"alg": "ES384", "kid": "p256"}),
        json!({"alg": "RS256", "kid": "p256"}),
        json!({"alg": "ES256", "kid": "ed"}),
        json!({"alg": "ES256", "kid": "other"}),
        json!({"alg": "ES256"}),
        json!({"alg": "ES256", "kid": "p256", "crit": ["b64"]}),
    ] {
        assert_eq!(verifier.verify(&issuer.sign(&header, &claims())), Err(Denied::Invalid), "{header}");
    }
    let mut only_ed = verifier;
    only_ed.config.algorithms = vec!["EdDSA".parse().unwrap()];
    assert_eq!(only_ed.verify(&issuer.sign(&es256(), &claims())), Err(Denied::Invalid));
    for symmetric in ["HS256", "HS384", "HS512", "none", ""] {
        assert_eq!(symmetric.parse::<JwtAlgorithm>(), Err(UnknownAlgorithm), "{symmetric}");
    }
}

#[test]
fn a_token_of_another_key_or_with_a_changed_byte_is_none() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier();
    assert_eq!(verifier.verify(&Issuer::new().sign(&es256(), &claims())), Err(Denied::Invalid));
    let token = issuer.sign(&es256(), &claims());
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        // Of the last characters of a part, some bits may say nothing.
        changed[at] = if changed[at] == b'A' { b'z' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let verdict = verifier.verify(&changed);
        assert!(verdict.is_err() || changed == token, "at {at}");
    }
    for nonsense in ["", ".", "..", "a.b.c", "...."] {
        assert_eq!(verifier.verify(nonsense), Err(Denied::Invalid), "{nonsense}");
    }
}

#[test]
fn a_role_may_lie_within_objects_or_under_a_name_with_dots() {
    let claims = |value: Value| serde_json::from_value::<BTreeMap<String, Value>>(value).unwrap();
    let nested = claims(json!({"realm_access": {"roles": ["read"]}}));
    assert_eq!(role(&nested, "realm_access.roles"), Some(Role::Read));
    let url = claims(json!({"https://example.com/role": "admin"}));
    assert_eq!(role(&url, "https://example.com/role"), Some(Role::Admin));
    assert_eq!(role(&nested, "realm_access.role"), None);
}

#[test]
fn a_file_without_a_usable_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    for text in ["", "{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#] {
        fs::write(&path, text).unwrap();
        assert!(JwtVerifier::read(&config(path.clone())).unwrap_err().contains("jwks.json"), "{text}");
    }
}
