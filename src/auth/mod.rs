//! Who makes a request, and what they may do.
//!
//! A client proves itself with a [`token`] of the pool's own, kept as a digest in a [`list`], or with a token that an OIDC
//! issuer signed ([`jwt`]). [`Gate`] says who is behind one; what follows from it, for each call, is decided in the front.

pub mod credential;
mod gate;
pub mod jwt;
pub mod limits;
pub mod list;
mod role;
pub mod token;

pub use credential::{Credential, Denied};
pub use gate::Gate;
pub use role::{Right, Role, UnknownRole};

use crate::job::ClientName;

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The pool asks nobody who they are: whoever reaches it may do everything.
    Anyone,
    Client {
        name: ClientName,
        role: Role,
    },
}

impl Caller {
    pub fn may(&self, right: Right) -> bool {
        match self {
            Self::Anyone => true,
            Self::Client { role, .. } => role.grants(right),
        }
    }

    /// The name that its jobs bear.
    pub fn name(&self) -> Option<&ClientName> {
        match self {
            Self::Anyone => None,
            Self::Client { name, .. } => Some(name),
        }
    }

    /// Whose jobs alone it sees; `None` stands for everybody's.
    pub fn sees_only(&self) -> Option<&ClientName> {
        match self {
            Self::Anyone | Self::Client { role: Role::Admin, .. } => None,
            Self::Client { name, role: Role::Read | Role::Submit } => Some(name),
        }
    }

    /// Whether it sees a job of this owner. A job that nobody owns is shown to those who see everybody's.
    pub fn sees(&self, owner: Option<&ClientName>) -> bool {
        self.sees_only().is_none_or(|only| owner == Some(only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_sees_its_own_jobs_and_an_admin_all() {
        let (ci, other): (ClientName, ClientName) = ("ci".parse().unwrap(), "other".parse().unwrap());
        for (role, sees_others) in [(Role::Read, false), (Role::Submit, false), (Role::Admin, true)] {
            let caller = Caller::Client { name: ci.clone(), role };
            assert!(caller.sees(Some(&ci)), "{role}");
            assert_eq!(caller.sees(Some(&other)), sees_others, "{role}");
            assert_eq!(caller.sees(None), sees_others, "{role}");
        }
        assert!(Caller::Anyone.sees(None) && Caller::Anyone.sees(Some(&ci)));
    }
}
