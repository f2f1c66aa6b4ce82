//! What the command line of `serve` says about the configuration.

use std::path::PathBuf;

/// Flags win over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct ServeArgs {
    /// The configuration file; conf/pool.yaml shows every key with its default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listen on this port of 127.0.0.1 (0: any free one); to listen on another address, set `listen` in the
    /// configuration file
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,

    /// The list of workers (JSON or YAML)
    #[arg(long, value_name = "FILE")]
    pub workers: Option<PathBuf>,

    /// The directory that keeps jobs and uploads [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Offer TLS with a self-signed certificate that is made for trying it out, on the addresses of `listen_tls` or
    /// else on 127.0.0.1:9443; says how clients come to trust it
    #[arg(long)]
    pub dev_tls: bool,

    /// Check the configuration, print it with every default filled in, and exit
    #[arg(long)]
    pub check: bool,
}
