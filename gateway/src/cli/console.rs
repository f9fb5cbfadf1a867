//! `fieldgate console …`: who comes into the console, from the gateway itself.

use std::process::ExitCode;

use clap::Subcommand;
use fieldgate_types::{Clock, DeviceId, Secret, SystemClock};

use super::Json;
use super::client::Client;
use super::offline::offline;
use super::passphrase::password;
use super::show::{date, print_json};
use crate::admin::accounts::{AddAccount, BY, SetPassword, SetupCode};
use crate::config::Config;
use crate::identity::account::{AccountInfo, AccountRole};

/// The web console at the admin address.
#[derive(Debug, Subcommand)]
pub enum Console {
    /// The code by which the first account is made in the console; it stands in the log, too
    SetupCode(Json),
    /// Accounts: add, list, remove, another password
    #[command(subcommand)]
    User(User),
}

/// Accounts of the console. Each change ends the sessions of the account.
#[derive(Debug, Subcommand)]
pub enum User {
    /// Make an account; its password is read from standard input
    Add {
        /// A name for it: 1 to 64 of A-Z a-z 0-9 . _ -
        name: DeviceId,
        /// viewer, or admin, who changes things too
        #[arg(long, default_value = "viewer")]
        role: AccountRole,
        #[command(flatten)]
        json: Json,
    },
    /// All accounts
    List(Json),
    /// Set the password of an account, read from standard input
    Passwd {
        /// Its name
        name: DeviceId,
        #[command(flatten)]
        json: Json,
    },
    /// End an account
    Remove {
        /// Its name
        name: DeviceId,
        #[command(flatten)]
        json: Json,
    },
}

/// Asked of the running gateway, else done in the data directory.
pub async fn run(config: &Config, verb: Console) -> anyhow::Result<ExitCode> {
    match verb {
        Console::SetupCode(json) => setup_code(config, json.json).await,
        Console::User(User::Add { name, role, json }) => add(config, name, role, json.json).await,
        Console::User(User::List(json)) => list(config, json.json).await,
        Console::User(User::Passwd { name, json }) => passwd(config, &name, json.json).await,
        Console::User(User::Remove { name, json }) => remove(config, &name, json.json).await,
    }
}

async fn setup_code(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    // A gateway that doesn't run has none: each start makes another.
    let code: SetupCode = Client::required(&config.data_dir).await?.get("/api/v1/console/setup-code").await?;
    if json {
        print_json(&code)?;
    } else {
        println!("{}", code.code);
    }
    Ok(ExitCode::SUCCESS)
}

async fn add(config: &Config, name: DeviceId, role: AccountRole, json: bool) -> anyhow::Result<ExitCode> {
    let password = password()?;
    let made: AccountInfo = if let Some(client) = Client::connect(&config.data_dir).await? {
        client.post("/api/v1/console/users", &AddAccount { name, role, password }).await?
    } else {
        let (password, now) = (Secret::new(password), SystemClock::new().now());
        offline(config, |authority| Ok(authority.accounts.add(&name, role, &password, now, BY)?))?
    };
    if json {
        print_json(&made)?;
    } else {
        println!("account {} ({}) made", made.name, made.role);
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let accounts: Vec<AccountInfo> = match Client::connect(&config.data_dir).await? {
        Some(client) => client.get("/api/v1/console/users").await?,
        None => offline(config, |authority| Ok(authority.accounts.list()))?,
    };
    if json {
        print_json(&accounts)?;
        return Ok(ExitCode::SUCCESS);
    }
    if accounts.is_empty() {
        println!("there is no account; make one with `fieldgate console user add NAME --role admin`");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<24} {:<7} {:<21} PASSWORD SET", "NAME", "ROLE", "MADE");
    for AccountInfo { name, role, made, changed } in accounts {
        println!("{:<24} {:<7} {:<21} {}", name.as_str(), role.word(), date(made), date(changed));
    }
    Ok(ExitCode::SUCCESS)
}

async fn passwd(config: &Config, name: &DeviceId, json: bool) -> anyhow::Result<ExitCode> {
    let password = password()?;
    let set: AccountInfo = if let Some(client) = Client::connect(&config.data_dir).await? {
        client.post(&format!("/api/v1/console/users/{name}/password"), &SetPassword { password }).await?
    } else {
        let (password, now) = (Secret::new(password), SystemClock::new().now());
        offline(config, |authority| Ok(authority.accounts.set_password(name, &password, now, BY)?))?
    };
    if json {
        print_json(&set)?;
    } else {
        println!("password of {name} set, its sessions are over");
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(config: &Config, name: &DeviceId, json: bool) -> anyhow::Result<ExitCode> {
    match Client::connect(&config.data_dir).await? {
        Some(client) => client.post(&format!("/api/v1/console/users/{name}/remove"), &()).await?,
        None => offline(config, |authority| Ok(authority.accounts.remove(name, BY)?))?,
    }
    if json {
        print_json(&serde_json::json!({ "name": name, "removed": true }))?;
    } else {
        println!("account {name} removed");
    }
    Ok(ExitCode::SUCCESS)
}
