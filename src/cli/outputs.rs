//! `outputs`: lists the files that a job has put out.

use std::process::ExitCode;

use super::exit::Failure;
use super::pool::JobArgs;
use super::print;

pub(super) async fn run(args: JobArgs) -> Result<ExitCode, Failure> {
    let listing = args.pool.client()?.outputs(&args.job).await?;
    if args.format.json {
        print::line(&listing.text)?;
    } else {
        let mut rows = vec![["BYTES".to_owned(), "FILE".to_owned()]];
        rows.extend(
            listing.value.files.iter().map(|file| [file.size.to_string(), print::printable(&file.name)]),
        );
        print::table(&rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
