//! `token`: who may use a pool. It works on the file that the pool reads, on the pool's machine; a running pool sees the change.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::exit::Failure;
use super::print;
use crate::auth::Role;
use crate::auth::list::{self, TokenEntry, TokenList};
use crate::auth::token::{Token, TokenId};
use crate::config::{Config, ServeArgs, tokens_in, units};
use crate::job::ClientName;
use crate::telemetry::audit::{self, Entry, Event, chain};
use crate::time::{Clock, Timestamp};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a token and print it: this once, it is kept nowhere
    New(NewArgs),
    /// List the tokens, without their secrets
    List(ListArgs),
    /// Make tokens worthless; a running pool knows within a second
    Revoke(RevokeArgs),
}

/// Which pool's tokens.
#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The configuration file of the pool
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The pool's data directory, where no configuration file says another place [default: ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct NewArgs {
    /// The client's name. Its jobs bear it; several tokens of one name are one client
    #[arg(long, value_parser = token_name)]
    name: ClientName,
    /// read: look at its own jobs; submit: also run, cancel and retry them; admin: everybody's, and workers
    #[arg(long)]
    role: Role,
    /// The token is worth nothing after this time, for example 90d
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    expires: Option<Duration>,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// A token's id, or a client's name for all that it has
    #[arg(value_name = "ID|NAME")]
    which: String,
    #[command(flatten)]
    file: FileArgs,
}

/// The prefix of clients that another issuer names keeps them apart from ours.
fn token_name(text: &str) -> Result<ClientName, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
        return Err("a name is 1 to 64 letters, digits, or - _ . @".to_owned());
    }
    text.parse().map_err(|error| format!("{error}"))
}

fn lifetime(text: &str) -> Result<Duration, String> {
    units::duration(text, &(Duration::from_secs(1)..=Duration::from_secs(3650 * 86_400)))
}

/// Where a pool keeps its tokens, and where it says who changed them.
struct Places {
    tokens: PathBuf,
    audit: PathBuf,
}

impl FileArgs {
    fn path(&self) -> Result<PathBuf, Failure> {
        Ok(self.places()?.tokens)
    }

    fn places(&self) -> Result<Places, Failure> {
        let Some(config) = &self.config else {
            let data = self.data.clone().unwrap_or_else(|| Config::default().data);
            return Ok(Places { tokens: tokens_in(&data), audit: data.join(audit::FILE_NAME) });
        };
        let args =
            ServeArgs { config: Some(config.clone()), data: self.data.clone(), ..ServeArgs::default() };
        let config = Config::load(&args).map_err(|errors| Failure::Setup(errors.to_string()))?;
        Ok(Places { tokens: config.tokens(), audit: config.data.join(audit::FILE_NAME) })
    }
}

impl Places {
    /// Records a change that was made. The token is good, or worthless, whether or not that can be written.
    fn note(&self, event: Event, about: Value) -> Result<(), Failure> {
        let user = std::env::var("USER").ok();
        let entry = Entry::new(event, about).by(user.as_deref(), None);
        // A pool that has never been started has no directory yet.
        let directory = self.audit.parent().unwrap_or(Path::new("."));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.and_then(|()| chain::append(&self.audit, &[entry])).map_err(|error| {
            Failure::Setup(format!("done, but {} cannot be written: {error}", self.audit.display()))
        })
    }
}

pub(super) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::New(args) => new(args),
        Command::List(args) => show(&args),
        Command::Revoke(args) => revoke(&args),
    }
}

fn new(args: NewArgs) -> Result<ExitCode, Failure> {
    let places = args.file.places()?;
    let token = Token::from_random(rand::random(), rand::random());
    let now = Clock::System.now();
    let entry = TokenEntry::new(&token, args.name.clone(), args.role, now, args.expires);
    list::change(&places.tokens, |list| list.add(token.id(), entry)).map_err(Failure::Setup)?;
    eprintln!("token {} lets {} in as {}; it is not shown again:", token.id(), args.name, args.role);
    print::line(token.reveal())?;
    let id = token.id().to_string();
    let role = args.role.as_str();
    places.note(Event::TokenNew, json!({ "token_id": id, "name": args.name.as_str(), "role": role }))?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ListArgs) -> Result<ExitCode, Failure> {
    let list = TokenList::read(&args.file.path()?).map_err(Failure::Setup)?;
    let now = Clock::System.now();
    if args.json {
        let tokens: Vec<_> = list.entries().map(|(id, entry)| shown(id, entry)).collect();
        print::line(&serde_json::json!({ "tokens": tokens }).to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["ID", "NAME", "ROLE", "CREATED", "EXPIRES"].map(str::to_owned)];
    rows.extend(list.entries().map(|(id, entry)| row(id, entry, now)));
    print::table(&rows)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(id: &TokenId, entry: &TokenEntry) -> serde_json::Value {
    serde_json::json!({
        "id": id.to_string(),
        "name": entry.client.as_str(),
        "role": entry.role.as_str(),
        "created_at": entry.created_at.as_unix_seconds(),
        "expires_at": entry.expires_at.map(Timestamp::as_unix_seconds),
    })
}

fn row(id: &TokenId, entry: &TokenEntry, now: Timestamp) -> [String; 5] {
    let expires = match entry.expires_at {
        None => "never".to_owned(),
        Some(_) if entry.has_expired(now) => "expired".to_owned(),
        Some(at) => format!("in {} h", at.since(now).as_secs().div_ceil(3600)),
    };
    let created = print::age(entry.created_at.as_unix_seconds());
    [id.to_string(), entry.client.to_string(), entry.role.to_string(), created, expires]
}

fn revoke(args: &RevokeArgs) -> Result<ExitCode, Failure> {
    let places = args.file.places()?;
    let revoked = list::change(&places.tokens, |list| match list.revoke(&args.which) {
        none if none.is_empty() => Err(format!("no token has the id or the name {:?}", args.which)),
        revoked => Ok(revoked),
    });
    let revoked = revoked.map_err(Failure::Setup)?;
    for id in &revoked {
        print::line(&format!("revoked {id}"))?;
    }
    for id in revoked {
        places.note(Event::TokenRevoke, json!({ "token_id": id.to_string() }))?;
    }
    Ok(ExitCode::SUCCESS)
}
