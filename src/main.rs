use std::process::ExitCode;

// A request costs some hundred small allocations, made and freed on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    trusted_pool::cli::run(std::env::args_os())
}
