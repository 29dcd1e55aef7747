//! The vault's own commands: `init`, `passphrase`.
//!
//! Decides how words and passphrases are asked for and shown. Never keeps either.

use std::io::{IsTerminal as _, Read as _, Write as _};

use dolmen_client::ClientError;
use dolmen_client::vault::{Passphrase, Vault, VaultLock, Words};
use serde_json::json;
use zeroize::Zeroizing;

use crate::arguments::{Init, Passphrase as PassphraseArguments};
use crate::context::Context;
use crate::datasets;
use crate::failure::{Exit, Failure};

/// The longest text that is read for 24 words.
const WORDS_MAX_BYTES: u64 = 4096;

/// The vault's passphrase: from `--passphrase-file`, else the environment, else the terminal.
///
/// # Errors
/// As [`Passphrase`]'s constructors.
pub fn passphrase(context: &Context, prompt: &str, twice: bool) -> Result<Passphrase, ClientError> {
    if let Some(file) = context.passphrase_file() {
        return Passphrase::from_file(file);
    }
    match Passphrase::from_environment()? {
        Some(passphrase) => Ok(passphrase),
        None => Passphrase::from_terminal(prompt, twice),
    }
}

/// `dolmen init`
///
/// # Errors
/// [`Failure`] when there is a vault already, or the words are no words.
pub async fn init(context: &Context, arguments: &Init) -> Result<Exit, Failure> {
    // Asked first: nothing is made, and no words are typed, when it cannot be told.
    let lock = if arguments.keychain {
        VaultLock::Keychain
    } else {
        VaultLock::Passphrase(passphrase(context, "New passphrase for the vault", true)?)
    };
    if arguments.recover {
        let words = read_words()?;
        let client = context.connect().await?;
        let vault = Vault::recover(&client, &words, lock).await?;
        let exit = datasets::list_all(context, &vault).await;
        client.shut_down().await;
        return exit;
    }
    let client = context.connect().await?;
    let (_, words) = Vault::create(&client, lock).await?;
    client.shut_down().await;
    show_words(context, &words);
    Ok(Exit::Ok)
}

/// Shows the words once: numbered for people, on one line for programs that asked.
fn show_words(context: &Context, words: &Words) {
    let terminal = context.terminal();
    let text = words.to_text();
    terminal.story("Write these 24 words down and keep them where no computer reads them.");
    terminal.story("They are the only way back to your data from another machine, and they are not shown again.");
    if std::io::stdout().is_terminal() && !terminal.is_json() {
        let list: Vec<&str> = text.split(' ').collect();
        let rows = list.chunks(6).zip((1..).step_by(6)).map(|(row, first)| {
            row.iter().zip(first..).map(|(word, number)| format!("{number:>2}. {word}")).collect::<Vec<_>>()
        });
        terminal.table(&[], rows.collect());
    } else {
        terminal.result(&text);
    }
    terminal.json(&json!({ "words": *text }));
}

fn read_words() -> Result<Words, Failure> {
    let mut text = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        let _ = write!(std::io::stderr(), "The 24 words of the vault, in one line: ");
        let read = std::io::stdin().read_line(&mut text);
        read.map_err(|error| Failure::local("could not read the words", &error))?;
    } else {
        let read = std::io::stdin().lock().take(WORDS_MAX_BYTES).read_to_string(&mut text);
        read.map_err(|error| Failure::local("could not read the words", &error))?;
    }
    Ok(Words::parse(&text)?)
}

/// `dolmen passphrase`
///
/// # Errors
/// [`Failure`] when the vault does not open or its file cannot be written.
pub async fn change_passphrase(context: &Context, arguments: &PassphraseArguments) -> Result<Exit, Failure> {
    let client = context.connect().await?;
    let new = match &arguments.new_passphrase_file {
        Some(file) => Passphrase::from_file(file)?,
        None => Passphrase::from_terminal("New passphrase", true)?,
    };
    Vault::change_passphrase(&client, || passphrase(context, "Present passphrase", false), new).await?;
    client.shut_down().await;
    context.terminal().result("the vault's file has the new passphrase; the words are the same");
    context.terminal().json(&json!({ "changed": true }));
    Ok(Exit::Ok)
}
