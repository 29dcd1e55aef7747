//! The `dolmen` program under the name by which the tests of this crate can find it.

fn main() -> std::process::ExitCode {
    dolmen_cli::main()
}
