//! Says who is behind a credential.

use std::sync::{Arc, PoisonError, RwLock};

use super::list::TokenList;
use super::token::Token;
use super::{Caller, Credential, Denied};
use crate::time::Timestamp;

/// Who is let in, and as whom. What it goes by may be replaced while requests are under way.
#[derive(Debug, Default)]
pub enum Gate {
    /// Everybody.
    #[default]
    Open,
    Guarded {
        tokens: RwLock<Arc<TokenList>>,
    },
}

impl Gate {
    /// Lets in nobody, until it is told of tokens.
    pub fn guarded() -> Self {
        Self::Guarded { tokens: RwLock::default() }
    }

    /// Who presents this credential.
    pub fn identify(
        &self,
        presented: Result<Credential<'_>, Denied>,
        now: Timestamp,
    ) -> Result<Caller, Denied> {
        let tokens = match self {
            Self::Open => return Ok(Caller::Anyone),
            Self::Guarded { tokens } => tokens,
        };
        let token: Token = presented?.as_str().parse().map_err(|_| Denied::Invalid)?;
        let tokens = Arc::clone(&tokens.read().unwrap_or_else(PoisonError::into_inner));
        let entry = tokens.find(&token, now).ok_or(Denied::Invalid)?;
        Ok(Caller::Client { name: entry.client.clone(), role: entry.role })
    }

    /// From now on these tokens are good, and no others.
    pub fn replace_tokens(&self, list: TokenList) {
        if let Self::Guarded { tokens } = self {
            *tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
        }
    }
}
