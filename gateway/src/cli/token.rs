//! `fieldgate token …`

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use fieldgate_types::{DeviceId, duration};

use super::Json;
use super::client::Client;
use super::offline::offline;
use super::show::{date, print_json};
use crate::admin::tokens::{AddToken, AddedToken};
use crate::config::Config;
use crate::identity::api_token::{ApiTokenInfo, Scope, parse_life};

/// Tokens for the API at the admin address.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and show it, this once
    Add {
        /// A name for it: 1 to 64 of A-Z a-z 0-9 . _ -
        name: DeviceId,
        /// read, or admin, which changes things too
        #[arg(long)]
        scope: Scope,
        /// How long it is good, such as 30d; at most 3650d
        #[arg(long = "for", value_name = "TIME", default_value = "90d", value_parser = parse_life)]
        life: Duration,
        #[command(flatten)]
        json: Json,
    },
    /// All tokens, with what they open, their end and their last use
    List(Json),
    /// End a token, at once
    Revoke {
        /// Its name
        name: DeviceId,
        #[command(flatten)]
        json: Json,
    },
}

/// Asked of the running gateway, else done in the data directory.
pub async fn run(config: &Config, verb: Token) -> anyhow::Result<ExitCode> {
    match verb {
        Token::Add { name, scope, life, json } => add(config, name, scope, life, json.json).await,
        Token::List(json) => list(config, json.json).await,
        Token::Revoke { name, json } => revoke(config, &name, json.json).await,
    }
}

async fn add(config: &Config, name: DeviceId, scope: Scope, life: Duration, json: bool) -> anyhow::Result<ExitCode> {
    let made: AddedToken = match Client::connect(&config.data_dir).await? {
        Some(client) => {
            let wanted = AddToken { name, scope, life: Some(duration::format(life)) };
            client.post("/api/v1/tokens", &wanted).await?
        }
        None => {
            offline(config, |authority| Ok(authority.api_tokens.add(authority.ca.time(), &name, scope, life)?.into()))?
        }
    };
    if json {
        print_json(&made)?;
    } else {
        let ApiTokenInfo { name, scope, expires, .. } = &made.info;
        println!("token {name} ({scope}), good until {} and shown this once: {}", date(*expires), made.token);
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let tokens: Vec<ApiTokenInfo> = match Client::connect(&config.data_dir).await? {
        Some(client) => client.get("/api/v1/tokens").await?,
        None => offline(config, |authority| Ok(authority.api_tokens.list()))?,
    };
    if json {
        print_json(&tokens)?;
        return Ok(ExitCode::SUCCESS);
    }
    if tokens.is_empty() {
        println!("there is no token; make one with `fieldgate token add NAME --scope read`");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<24} {:<6} {:<21} LAST USED", "NAME", "SCOPE", "GOOD UNTIL");
    for ApiTokenInfo { name, scope, expires, used, .. } in tokens {
        let used = used.map_or_else(|| "never".to_owned(), date);
        println!("{:<24} {:<6} {:<21} {used}", name.as_str(), scope.word(), date(expires));
    }
    Ok(ExitCode::SUCCESS)
}

async fn revoke(config: &Config, name: &DeviceId, json: bool) -> anyhow::Result<ExitCode> {
    match Client::connect(&config.data_dir).await? {
        Some(client) => client.post(&format!("/api/v1/tokens/{name}/revoke"), &()).await?,
        None => offline(config, |authority| Ok(authority.api_tokens.revoke(name)?))?,
    }
    if json {
        print_json(&serde_json::json!({ "name": name, "revoked": true }))?;
    } else {
        println!("token {name} revoked");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::api_token::DEFAULT_LIFE;

    #[test]
    fn the_default_that_is_shown_is_the_one_that_counts() {
        assert_eq!(parse_life("90d"), Ok(DEFAULT_LIFE));
    }
}
