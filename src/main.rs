use std::process::ExitCode;

fn main() -> ExitCode {
    trusted_pool::cli::run(std::env::args_os())
}
