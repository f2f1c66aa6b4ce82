//! What a client may do, by its role.

use std::fmt;
use std::str::FromStr;

/// What a token allows. Each role has all that the one before it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at the client's own jobs, and at the pool.
    Read,
    /// Submit jobs; cancel and retry the client's own.
    Submit,
    /// Everybody's jobs; drain and resume workers.
    Admin,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To look.
    Read,
    /// To bring in jobs and decide about them.
    Submit,
    /// To decide about workers.
    Operate,
}

impl Role {
    pub const ALL: [Role; 3] = [Self::Read, Self::Submit, Self::Admin];

    pub fn grants(self, right: Right) -> bool {
        match right {
            Right::Read => self >= Self::Read,
            Right::Submit => self >= Self::Submit,
            Right::Operate => self >= Self::Admin,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
        }
    }
}

impl Right {
    /// The least role that has it.
    pub fn least_role(self) -> Role {
        match self {
            Self::Read => Role::Read,
            Self::Submit => Role::Submit,
            Self::Operate => Role::Admin,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRole;

impl fmt::Display for UnknownRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a role is `read`, `submit` or `admin`")
    }
}

impl std::error::Error for UnknownRole {}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_right_is_granted_from_its_least_role_up() {
        for right in [Right::Read, Right::Submit, Right::Operate] {
            for role in Role::ALL {
                assert_eq!(role.grants(right), role >= right.least_role(), "{role} {right:?}");
            }
        }
    }
}
