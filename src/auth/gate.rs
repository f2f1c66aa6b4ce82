//! Says who is behind a credential.

use std::sync::{Arc, PoisonError, RwLock};

use super::jwt::JwtVerifier;
use super::list::TokenList;
use super::token::Token;
use super::{Caller, Credential, Denied};
use crate::time::Timestamp;

/// Who is let in, and as whom.
#[derive(Debug, Default)]
pub enum Gate {
    /// Everybody.
    #[default]
    Open,
    Guarded(Guard),
}

/// What credentials are compared with. It may be replaced while requests are under way.
#[derive(Debug, Default)]
pub struct Guard {
    tokens: RwLock<Arc<TokenList>>,
    /// `None` where no issuer is configured.
    issuer: RwLock<Option<Arc<JwtVerifier>>>,
}

impl Gate {
    /// Who presents this credential.
    pub fn identify(
        &self,
        presented: Result<Credential<'_>, Denied>,
        now: Timestamp,
    ) -> Result<Caller, Denied> {
        match self {
            Self::Open => Ok(Caller::Anyone),
            Self::Guarded(guard) => guard.identify(presented?, now),
        }
    }

    /// Lets in nobody, until it is told of tokens.
    pub fn guarded() -> Self {
        Self::Guarded(Guard::default())
    }

    /// From now on these tokens are good, and no others.
    pub fn replace_tokens(&self, list: TokenList) {
        if let Self::Guarded(guard) = self {
            *guard.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
        }
    }

    /// From now on tokens of this issuer are good, by these keys.
    pub fn replace_issuer(&self, issuer: JwtVerifier) {
        if let Self::Guarded(guard) = self {
            *guard.issuer.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(issuer));
        }
    }
}

impl Guard {
    fn identify(&self, presented: Credential<'_>, now: Timestamp) -> Result<Caller, Denied> {
        let text = presented.as_str();
        if !Token::is_meant_by(text) {
            let issuer = self.issuer.read().unwrap_or_else(PoisonError::into_inner).clone();
            return issuer.ok_or(Denied::Invalid)?.verify(text);
        }
        let token: Token = text.parse().map_err(|_| Denied::Invalid)?;
        let tokens = Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner));
        let entry = tokens.find(&token, now).ok_or(Denied::Invalid)?;
        Ok(Caller::Client { name: entry.client.clone(), role: entry.role })
    }
}
