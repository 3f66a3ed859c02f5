//! The `dbstreamd` program: everything it can do is in the library's `cli`.

fn main() -> std::process::ExitCode {
    dbstreamd::cli::main()
}
