//! Who is let in, from the configuration, and the files that say so.

use std::sync::Arc;

use super::reload::Watched;
use crate::auth::Gate;
use crate::auth::jwt::JwtVerifier;
use crate::auth::list::TokenList;
use crate::config::{AuthConfig, Config};

/// The gate, and what is to be read again when it changes.
pub fn gate(config: &Config) -> Result<(Arc<Gate>, Vec<Watched>), String> {
    match &config.auth {
        AuthConfig::Unset => Ok((Arc::new(Gate::Open), Vec::new())),
        AuthConfig::Open => {
            log::warn!("auth: none: whoever reaches the pool may run jobs, and sees everybody's");
            Ok((Arc::new(Gate::Open), Vec::new()))
        }
        AuthConfig::Guarded(guard) => {
            let gate = Arc::new(Gate::guarded());
            let (path, guarded) = (config.tokens(), Arc::clone(&gate));
            let tokens = Watched::begin(vec![path.clone()], move || {
                let list = TokenList::read(&path)?;
                let done = match list.len() {
                    0 => "nobody has a token yet: trusted-pool token new".to_owned(),
                    tokens => format!("{tokens} tokens of {}", path.display()),
                };
                guarded.replace_tokens(list);
                Ok(done)
            })?;
            let mut watched = vec![tokens];
            if let Some(jwt) = guard.jwt.clone() {
                let guarded = Arc::clone(&gate);
                watched.push(Watched::begin(vec![jwt.jwks.clone()], move || {
                    let issuer = JwtVerifier::read(&jwt)?;
                    let done = format!("{} keys of {}", issuer.keys(), jwt.issuer);
                    guarded.replace_issuer(issuer);
                    Ok(done)
                })?);
            }
            Ok((gate, watched))
        }
    }
}
