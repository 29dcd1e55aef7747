//! The `dolmen` program; all of it is in the library, so that the tests can build it under another name.

fn main() -> std::process::ExitCode {
    dolmen_cli::main()
}
