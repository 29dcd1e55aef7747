//! What every command starts from: the flags, the configuration, the client.
//!
//! Decides where configuration comes from and in which order. Never decides what a command does with it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dolmen_client::vault::{Passphrase, Vault};
use dolmen_client::{Client, ClientConfig, ClientError, Progress};
use dolmen_storage_node::config::NodeConfig;

use crate::arguments::Global;
use crate::failure::{Exit, Failure};
use crate::progress::Bars;
use crate::terminal::Terminal;

/// Flags and configuration of this run.
#[derive(Debug, Clone)]
pub struct Context {
    global: Global,
    terminal: Terminal,
    /// Asked for once a run, however often the vault is opened.
    passphrase: Arc<OnceLock<Passphrase>>,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(Exit::from_number(error.exit_code()), error.what(), error.why(), error.advice())
    }
}

impl Context {
    /// For the flags of this run.
    #[must_use]
    pub fn new(global: Global, terminal: Terminal) -> Self {
        Self { global, terminal, passphrase: Arc::default() }
    }

    /// How to talk.
    #[must_use]
    pub const fn terminal(&self) -> Terminal {
        self.terminal
    }

    /// The same run with another way to talk.
    #[must_use]
    pub fn with_terminal(&self, terminal: Terminal) -> Self {
        Self { terminal, ..self.clone() }
    }

    /// Bootstrap addresses from the command line or the environment.
    #[must_use]
    pub fn bootstrap(&self) -> &[String] {
        &self.global.bootstrap
    }

    /// The node's configuration file: `--config`, else `DOLMEN_NODE_CONFIG`, else `node.toml` here.
    #[must_use]
    pub fn node_config_path(&self) -> PathBuf {
        self.global
            .config
            .clone()
            .or_else(|| std::env::var_os("DOLMEN_NODE_CONFIG").map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from("node.toml"))
    }

    /// The node's configuration.
    ///
    /// # Errors
    /// [`Failure`] that names file and line.
    pub fn node_config(&self) -> Result<NodeConfig, Failure> {
        let path = self.node_config_path();
        NodeConfig::load(&path).map_err(|error| {
            let exit = if path.exists() { Exit::Usage } else { Exit::Local };
            Failure::new(
                exit,
                format!("could not use {}", path.display()),
                error.to_string(),
                "name the file with --config, or make one with `dolmen node init`",
            )
        })
    }

    /// The client's configuration: `--config`, else `DOLMEN_CONFIG`, else the per-user file where it exists; bootstrap
    /// addresses of the command line take the place of the file's.
    ///
    /// # Errors
    /// [`Failure`] that names the file.
    pub fn client_config(&self) -> Result<ClientConfig, Failure> {
        let named = self.global.config.clone().or_else(|| std::env::var_os("DOLMEN_CONFIG").map(PathBuf::from));
        let path = named.or_else(|| per_user_config().filter(|path| path.exists()));
        let mut config = match path {
            Some(path) => load_client_config(&path)?,
            None => ClientConfig::default(),
        };
        if !self.global.bootstrap.is_empty() {
            config.bootstrap = self.global.bootstrap.clone();
        }
        if let Some(vault) = &self.global.vault {
            config.vault = Some(vault.clone());
        }
        Ok(config)
    }

    /// A client of the configured network, whose long operations draw bars.
    ///
    /// # Errors
    /// [`Failure`] where the configuration is unusable or no socket can be opened.
    pub async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.client_config()?, self.progress()).await?)
    }

    /// A client of the network that a given configuration names.
    ///
    /// # Errors
    /// As [`Context::connect`].
    pub async fn connect_to(&self, config: &Path) -> Result<Client, Failure> {
        Ok(Client::connect(load_client_config(config)?, self.progress()).await?)
    }

    /// The configured vault, opened, and the client that it lives on.
    ///
    /// # Errors
    /// As [`Context::connect`]; when there is no vault or it does not open.
    pub async fn open_vault(&self) -> Result<(Client, Vault), Failure> {
        let client = self.connect().await?;
        let ask = || {
            if let Some(passphrase) = self.passphrase.get() {
                return Ok(passphrase.clone());
            }
            let passphrase = crate::vault::passphrase(self, "Passphrase of the vault", false)?;
            Ok(self.passphrase.get_or_init(|| passphrase).clone())
        };
        let vault = Vault::open(&client, ask).await?;
        Ok((client, vault))
    }

    /// The file that the passphrase is to be read from.
    #[must_use]
    pub fn passphrase_file(&self) -> Option<&Path> {
        self.global.passphrase_file.as_deref()
    }

    fn progress(&self) -> Progress {
        Progress::new(Arc::new(Bars::new(self.terminal)))
    }
}

fn load_client_config(path: &Path) -> Result<ClientConfig, Failure> {
    ClientConfig::load(path).map_err(|error| {
        let exit = if path.exists() { Exit::Usage } else { Exit::Local };
        Failure::new(
            exit,
            format!("could not use {}", path.display()),
            error.to_string(),
            "put it right, or name another file with --config",
        )
    })
}

/// `~/.config/dolmen/client.toml`, or where the platform keeps such files.
#[must_use]
pub fn per_user_config() -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "dolmen").map(|folders| folders.config_dir().join("client.toml"))
}
