//! The program.

fn main() -> std::process::ExitCode {
    trimtab_cli::main()
}
