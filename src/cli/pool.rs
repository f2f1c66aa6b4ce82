//! Which pool a command speaks to.

use std::path::PathBuf;

use crate::client::{Client, ClientError};
use crate::job::JobId;

#[derive(Debug, clap::Args)]
pub(super) struct PoolArgs {
    /// The pool's address. A token in TRUSTED_POOL_TOKEN is sent along
    #[arg(
        long = "pool",
        value_name = "URL",
        env = "TRUSTED_POOL_URL",
        default_value = "http://127.0.0.1:9000"
    )]
    url: String,

    /// For an https:// address: trust the certificates in this PEM file, and no others
    #[arg(long, value_name = "FILE", env = "TRUSTED_POOL_CA")]
    ca: Option<PathBuf>,
}

/// Not a flag: what stands on a command line can be read by everybody on the machine.
const TOKEN_VARIABLE: &str = "TRUSTED_POOL_TOKEN";

impl PoolArgs {
    pub(super) fn client(&self) -> Result<Client, ClientError> {
        let token = match std::env::var(TOKEN_VARIABLE) {
            Ok(token) => Some(token).filter(|token| !token.is_empty()),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(ClientError::Usage(format!("{TOKEN_VARIABLE} holds no text")));
            }
        };
        Client::trusting(self.ca.as_deref(), &self.url, token.as_deref())
    }
}

/// Who the answer is for.
#[derive(Debug, clap::Args)]
pub(super) struct FormatArgs {
    /// Print the pool's answer as it is, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// A command about one job.
#[derive(Debug, clap::Args)]
pub(super) struct JobArgs {
    pub(super) job: JobId,
    #[command(flatten)]
    pub(super) pool: PoolArgs,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}
