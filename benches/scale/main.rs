//! How the pool's parts grow, in process: `make bench-scale`.
//!
//! ```text
//! cargo bench --bench scale [-- --most JOBS]
//! ```

mod checks;
mod decisions;
mod restart;

use clap::Parser;

#[derive(Parser)]
struct Args {
    /// The largest number of jobs; the others are this, divided by ten again and again
    #[arg(long, default_value_t = 1_000_000)]
    most: usize,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("threads can be started");
    let sizes: Vec<usize> = std::iter::successors(Some(args.most), |size| Some(size / 10))
        .take_while(|size| *size >= 100)
        .collect();
    runtime.block_on(async {
        decisions::measure(&sizes).await;
        restart::measure(&sizes).await;
        checks::measure().await;
    });
}
