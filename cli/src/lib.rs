//! The `dolmen` command line: thin commands over the client library and the storage node.
//!
//! Printing and exit codes live here and nowhere else.

pub mod arguments;
pub mod audit;
pub mod bench;
pub mod context;
pub mod data;
pub mod datasets;
pub mod demo;
pub mod devnet;
pub mod durability;
pub mod failure;
pub mod inspect;
pub mod node;
pub mod node_process;
pub mod opened;
pub mod progress;
pub mod source;
pub mod steward;
pub mod terminal;
pub mod tree_compare;
pub mod vault;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::arguments::{Arguments, Command};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::terminal::Terminal;

/// Runs the program with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    // A panic is our bug, and has the exit code that says so.
    std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Exit::Bug.into())
}

fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked_for = !error.use_stderr();
            // Where the message cannot be printed there is nobody to read it.
            let _ = error.print();
            return if asked_for { Exit::Ok } else { Exit::Usage }.into();
        }
    };
    let terminal = Terminal::new(arguments.global.json, arguments.global.quiet);
    start_log(arguments.global.verbose, matches!(arguments.command, Command::Node(_)));
    let content_on_stdout = match &arguments.command {
        Command::Cat(_) => true,
        Command::Get(get) => get.destination.as_os_str() == "-",
        _ => false,
    };
    let terminal = if content_on_stdout { terminal.with_content_on_stdout() } else { terminal };
    match execute(&Context::new(arguments.global, terminal), arguments.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            terminal.failure(&failure);
            failure.exit().into()
        }
    }
}

fn execute(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "dolmen", &mut std::io::stdout());
            return Ok(Exit::Ok);
        }
        Command::Man { folder } => {
            return clap_mangen::generate_to(Arguments::command(), &folder)
                .map(|()| Exit::Ok)
                .map_err(|error| Failure::local(format!("could not write man pages to {}", folder.display()), &error));
        }
        Command::Node(command) => return node::run(context, command),
        Command::BenchShaper => return bench::shape(),
        Command::Durability(arguments) => return durability::run(context, &arguments),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local("could not start threads", &error))?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Demo(arguments) => demo::run(context, &arguments).await,
            Command::Devnet(arguments) => devnet::run(context, &arguments).await,
            Command::Bench(arguments) => bench::run(context, &arguments).await,
            Command::BenchReceiver(arguments) => bench::receive(&arguments).await,
            // A steward at work ends in order by itself.
            command @ Command::Steward(_) => data::run(context, command).await,
            command => {
                tokio::select! {
                    outcome = data::run(context, command) => outcome,
                    () = interrupted() => Err(Failure::interrupted()),
                }
            }
        }
    });
    // Threads that still read or write local files for a command that was interrupted are not waited for.
    runtime.shutdown_background();
    outcome
}

/// Waits for the user or the system to ask this process to stop; from the moment of the call, and not of the first
/// wait, such a request no longer ends the process by itself.
///
/// # Panics
/// Outside a tokio runtime.
pub fn interrupted() -> impl Future<Output = ()> + use<> {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    // Where the system gives no handler, the request ends the process as it would have without us.
    async fn received(signal: Option<Signal>) {
        match signal {
            Some(mut signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
    let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok());
    async move {
        tokio::select! {
            () = received(interrupt) => {}
            () = received(terminate) => {}
        }
    }
}

fn start_log(verbose: u8, is_node: bool) {
    use tracing_subscriber::EnvFilter;
    let default = match (verbose, is_node) {
        (0, false) => "off",
        (0, true) => "warn,dolmen=info,dolmen_storage_node=info,dolmen_net=info",
        (1, _) => "warn,dolmen_cli=debug,dolmen_client=debug,dolmen_net=debug,dolmen_storage_node=debug",
        _ => "info,dolmen_cli=trace,dolmen_client=trace,dolmen_net=trace,dolmen_storage_node=trace",
    };
    let filter = EnvFilter::try_from_env("DOLMEN_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
