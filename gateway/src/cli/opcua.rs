//! `fieldgate opcua …`: look at servers, sort certificates.
//!
//! These verbs work on files and open a session of their own: a running gateway is not asked, and sees what they did
//! to its certificates at its next look.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use fieldgate_opcua::{
    Endpoint, Extent, Known, NodeName, OpcuaConfig, OwnCertificate, Pki, Standing, Template, browse,
};
use fieldgate_types::{Clock, SystemClock};

use super::Json;
use super::lists::give;
use super::show::print_json;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub enum Opcua {
    /// The tree of nodes below a node, or a point list of it
    Browse(BrowseArgs),
    /// The gateway's own application certificate
    #[command(subcommand)]
    Cert(Cert),
    /// The certificates of servers
    #[command(subcommand)]
    Trust(Trust),
}

#[derive(Debug, Args)]
pub struct BrowseArgs {
    /// The server; security and login as in the [[opcua]] with this endpoint, else none
    endpoint: Endpoint,
    /// The node to begin with, such as "nsu=urn:plant;s=Line" or "ns=2;/Line"; default: the Objects folder
    node: Option<NodeName>,
    /// Levels below it
    #[arg(long, default_value_t = 10)]
    depth: usize,
    /// Nodes at most
    #[arg(long, default_value_t = 10_000)]
    limit: usize,
    /// Write the variables as the [[point]] tables of a `points_from` file
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    points: Option<PathBuf>,
    /// Names of the points: {name} stands for the browse name, {path} for all names from NODE on
    #[arg(long, value_name = "TEMPLATE", default_value = "{path}", requires = "points")]
    name: Template,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Subcommand)]
pub enum Cert {
    /// Name, thumbprint, validity; makes it when there is none yet
    Show(Json),
    /// Itself, in PEM, for servers that are to trust it
    Export {
        /// File; default: standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// DER instead of PEM
        #[arg(long, requires = "out")]
        der: bool,
    },
    /// Make a new one, with a new key; every server has to trust it anew
    Renew(Json),
}

#[derive(Debug, Subcommand)]
pub enum Trust {
    /// Those that are trusted, and those that were refused
    List(Json),
    /// Trust the certificate with this SHA-1 thumbprint
    Accept {
        /// The thumbprint, or its beginning
        thumbprint: String,
        #[command(flatten)]
        json: Json,
    },
    /// Trust it no longer
    Reject {
        /// The thumbprint, or its beginning
        thumbprint: String,
        #[command(flatten)]
        json: Json,
    },
}

/// Runs one of them.
pub async fn run(config: &Config, verb: Opcua) -> anyhow::Result<ExitCode> {
    let dir = config.data_dir.join("opcua");
    let pki = Pki::new(dir.clone());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let right = clock.plausible();
    match verb {
        Opcua::Browse(args) => return look(config, &dir, args, &clock).await,
        Opcua::Cert(Cert::Show(json)) => show_own(&pki.own_certificate(right)?, json)?,
        Opcua::Cert(Cert::Renew(json)) => {
            show_own(&pki.renew(right)?, json)?;
            if !json.json {
                println!("Sessions show it from their next connection on. Each server has to trust it anew.");
            }
        }
        Opcua::Cert(Cert::Export { out, der: true }) => {
            let out = out.context("--out is missing")?;
            let own = pki.own_certificate(right)?;
            std::fs::write(&out, own.der).with_context(|| format!("can't write `{}`", out.display()))?;
        }
        Opcua::Cert(Cert::Export { out, der: false }) => {
            give(&pki.own_certificate(right)?.pem(), out.as_deref())?;
        }
        Opcua::Trust(Trust::List(json)) => list(&pki.known()?, json)?,
        Opcua::Trust(Trust::Accept { thumbprint, json }) => sorted(&pki.accept(&thumbprint)?, json)?,
        Opcua::Trust(Trust::Reject { thumbprint, json }) => sorted(&pki.reject(&thumbprint)?, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn look(config: &Config, dir: &Path, args: BrowseArgs, clock: &Arc<dyn Clock>) -> anyhow::Result<ExitCode> {
    let configured = config.opcua.iter().find(|session| session.endpoint == args.endpoint);
    let session = configured.cloned().unwrap_or_else(|| OpcuaConfig::bare(args.endpoint.clone()));
    let extent = Extent { depth: args.depth, nodes: args.limit };
    let tree = browse(&session, dir, args.node.as_ref(), extent, clock).await.with_context(|| {
        let how = if configured.is_some() { "as configured" } else { "without security, as no [[opcua]] has it" };
        format!("can't browse {} ({how})", args.endpoint)
    })?;
    if args.json.json {
        print_json(&tree)?;
    } else if let Some(file) = &args.points {
        give(&tree.points(&args.name), Some(file))?;
    } else {
        print!("{}", tree.text());
    }
    if tree.cut {
        eprintln!("fieldgate: there is more below: name a NODE, or raise --depth or --limit");
    }
    Ok(ExitCode::SUCCESS)
}

fn show_own(own: &OwnCertificate, json: Json) -> anyhow::Result<()> {
    if json.json {
        return print_json(own);
    }
    println!("file            {}", own.path.display());
    println!("name            {}", own.common_name);
    println!("ApplicationUri  {}", own.application_uri);
    println!("SHA-1           {}", own.thumbprint);
    println!("valid           {} to {}, {} days left", own.not_before, own.not_after, own.days_left);
    Ok(())
}

fn list(known: &[Known], json: Json) -> anyhow::Result<()> {
    if json.json {
        return print_json(&known);
    }
    println!("{:<9} {:<41} {:<26} NAME", "STANDING", "SHA-1", "ENDS");
    for one in known {
        println!("{:<9} {:<41} {:<26} {}", standing(one.standing), one.thumbprint, one.not_after, one.common_name);
    }
    Ok(())
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Trusted => "trusted",
        Standing::Rejected => "rejected",
    }
}

fn sorted(known: &Known, json: Json) -> anyhow::Result<()> {
    if json.json {
        return print_json(known);
    }
    println!("{} {} ({})", standing(known.standing), known.thumbprint, known.common_name);
    Ok(())
}
