//! How a command ends: its exit code, and what it says when it fails.

use std::io;
use std::process::ExitCode;

use crate::client::ClientError;

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    Client(ClientError),
    /// The command line or the machine does not allow it.
    Setup(String),
    /// It took too long.
    TimedOut(String),
    /// Standard output takes no more.
    Output(io::Error),
}

const REFUSED: u8 = 1;
pub(super) const SETUP: u8 = 2;
const UNREACHABLE: u8 = 3;
const TIMED_OUT: u8 = 4;

impl Failure {
    /// Something that the machine does not let us do.
    pub(super) fn set_up(error: io::Error) -> Self {
        Self::Setup(error.to_string())
    }

    /// Says what is wrong, and gives the exit code that says it to machines.
    pub(super) fn report(&self) -> ExitCode {
        let (message, code) = match self {
            // Who reads our output has seen enough, as `head` does: no failure.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Self::Output(error) => (format!("cannot write to standard output: {error}"), REFUSED),
            Self::Setup(message) => (message.clone(), SETUP),
            Self::TimedOut(message) => (message.clone(), TIMED_OUT),
            Self::Client(error) => (error.to_string(), client_code(error)),
        };
        eprintln!("error: {message}");
        ExitCode::from(code)
    }
}

fn client_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Usage(_) => SETUP,
        ClientError::Unreachable(_) => UNREACHABLE,
        ClientError::Refused { .. } | ClientError::Unexpected(_) | ClientError::File(_) => REFUSED,
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    /// Of standard output: other files are reported with their names.
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
